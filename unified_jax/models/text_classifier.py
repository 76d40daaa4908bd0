"""A text encoder that is trained to name what a text says: one linear head per label on its pooled vector (`heads`).

The model generates nothing; as a stage it encodes captions for another model (its heads come along, unused).
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float

from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.label import Label
from unified_jax.models.base import Declared, Terms
from unified_jax.models.heads import HEADS, axes_of_heads, check_labels, classify, init_heads, logits_of
from unified_jax.models.stages import Encoded, Part
from unified_jax.models.text_encoder import TextEncoder
from unified_jax.typing import Batch, Keys, Params


@dataclass(frozen=True)
class TextClassifier(Declared):
    """A text encoder with a head per label."""

    encoder: TextEncoder
    """The transformer over the text."""
    labels: tuple[Label, ...]
    """What is predicted: fields of the batch."""

    def __post_init__(self) -> None:
        check_labels("TextClassifier", self.encoder.text.name, self.labels)

    @property
    def modalities(self) -> tuple[Any, ...]:
        """The text, then the labels."""
        return self.encoder.text, *self.labels

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters; the heads are zero, so that every class starts as likely."""
        return {**self.encoder.init(key), HEADS: init_heads(self.labels, self.encoder.network.width)}

    def axes(self) -> Any:
        """Logical axis names of every parameter."""
        return {**self.encoder.axes(), HEADS: axes_of_heads(self.labels)}

    def logits(self, params: Params, text: Array) -> dict[str, Float[Array, "b k"]]:
        """Unnormalised log-probabilities of the classes of every label, its null last."""
        pooled: Any = self.encode(params, text).pooled
        return logits_of(self.labels, params[HEADS], pooled)

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """The cross-entropy of each label; metrics hold the share of right answers (`accuracy/NAME`)."""
        return classify(self.logits(params, batch[self.encoder.text.name]), batch)

    def encode(self, params: Params, x: Array, keys: Keys | None = None) -> Encoded:
        """See `Encoder`."""
        return self.encoder.encode({name: value for name, value in params.items() if name != HEADS}, x, keys)

    def condition_form(self, part: Part) -> ConditionForm:
        """See `Encoder`."""
        return self.encoder.condition_form(part)
