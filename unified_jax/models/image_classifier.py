"""An image encoder that is trained to name what an image shows: one linear head per label on its vector (`heads`).

The model generates nothing. As a stage it encodes images; as an extractor its vectors are compared (`evaluate
--encoder RUN`), of which must be said that it has seen the labels.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float

from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.label import Label
from unified_jax.models.base import Declared, Terms
from unified_jax.models.heads import HEADS, axes_of_heads, check_labels, classify, init_heads, logits_of
from unified_jax.models.image_encoder import ImageEncoder
from unified_jax.models.stages import Encoded, Part
from unified_jax.typing import Batch, Keys, Params


@dataclass(frozen=True)
class ImageClassifier(Declared):
    """An image encoder with a head per label."""

    encoder: ImageEncoder
    """The transformer over the image; its network pools."""
    labels: tuple[Label, ...]
    """What is predicted: fields of the batch."""

    def __post_init__(self) -> None:
        check_labels("ImageClassifier", self.encoder.image.name, self.labels)
        if self.encoder.network.pool == "none":
            raise ValueError("ImageClassifier needs a network with a vector: Vit.pool 'class' or 'probe'.")

    @property
    def modalities(self) -> tuple[Any, ...]:
        """The image, then the labels."""
        return self.encoder.image, *self.labels

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters; the heads are zero, so that every class starts as likely."""
        width = self.encoder.network.projection or self.encoder.network.width
        return {**self.encoder.init(key), HEADS: init_heads(self.labels, width)}

    def axes(self) -> Any:
        """Logical axis names of every parameter."""
        return {**self.encoder.axes(), HEADS: axes_of_heads(self.labels)}

    def logits(self, params: Params, image: Array) -> dict[str, Float[Array, "b k"]]:
        """Unnormalised log-probabilities of the classes of every label, its null last."""
        pooled: Any = self.encode(params, image).pooled
        return logits_of(self.labels, params[HEADS], pooled)

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """The cross-entropy of each label; metrics hold the share of right answers (`accuracy/NAME`)."""
        return classify(self.logits(params, batch[self.encoder.image.name]), batch)

    def encode(self, params: Params, x: Array, keys: Keys | None = None) -> Encoded:
        """See `Encoder`."""
        return self.encoder.encode({name: value for name, value in params.items() if name != HEADS}, x, keys)

    def condition_form(self, part: Part) -> ConditionForm:
        """See `Encoder`."""
        return self.encoder.condition_form(part)
