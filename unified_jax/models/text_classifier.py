r"""A text encoder that is trained to name what a text says: one linear head per label on its pooled vector (`heads`).

The model generates nothing; as a stage it encodes captions for another model. With `objects`, its tokens are one for
each object that a text may name: the probabilities p_1 .. p_k of that object's labels side by side,

    token = sqrt(features / k) [p_1, ..., p_k]                          of mean square 1 where the heads are sure

so that which attribute is of which object is read off, where a network must otherwise find it among the words' tokens.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
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
    objects: tuple[tuple[str, ...], ...] = ()
    """Names of the labels of each object that a text may name; (): the tokens are the text's."""
    vector: Literal["text", "objects"] = "text"
    """The pooled vector: the text's, or the objects' tokens side by side."""
    apart: tuple[str, ...] = ()
    """Labels of the first object of which no two objects have the same class: `complete` draws none twice."""

    def __post_init__(self) -> None:
        check_labels("TextClassifier", self.encoder.text.name, self.labels)
        known = {label.name: label.classes for label in self.labels}
        for names in self.objects:
            if not names or any(name not in known for name in names):
                raise ValueError(
                    f"TextClassifier.objects names labels of each object, some of {', '.join(known)}; found {names}."
                )
        if len({tuple(known[name] for name in names) for names in self.objects}) > 1:
            raise ValueError("TextClassifier.objects: every object needs labels of the same numbers of classes.")
        if self.vector == "objects" and not self.objects:
            raise ValueError("TextClassifier.vector is of objects, and TextClassifier.objects names none.")
        if strange := [name for name in self.apart if name not in (self.objects or ((),))[0]]:
            raise ValueError(f"TextClassifier.apart names labels of the first of its objects; found {strange[0]!r}.")

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
        whole = self.encoder.encode({name: value for name, value in params.items() if name != HEADS}, x, keys)
        if not self.objects:
            return whole
        pooled: Any = whole.pooled
        said = logits_of(self.labels, params[HEADS], pooled)
        rows = [jnp.concatenate([jax.nn.softmax(said[name]) for name in names], axis=-1) for names in self.objects]
        scale = math.sqrt(self._features() / len(self.objects[0]))
        length = jnp.full(x.shape[:1], len(self.objects), jnp.int32)
        tokens = scale * jnp.stack(rows, axis=1)
        pooled = pooled if self.vector == "text" else tokens.reshape(len(tokens), -1)
        return Encoded(tokens=tokens, length=length, pooled=pooled)

    def condition_form(self, part: Part) -> ConditionForm:
        """See `Encoder`."""
        if part == "pooled" and self.vector == "objects":
            size = self._features() * len(self.objects)
            return ConditionForm(self.encoder.text.name, "vector", size, null="learned")
        if part != "tokens" or not self.objects:
            return self.encoder.condition_form(part)
        return ConditionForm(self.encoder.text.name, "tokens", self._features(), len(self.objects), null="learned")

    def _features(self) -> int:
        return sum(label.classes + 1 for label in self.labels if label.name in self.objects[0])
