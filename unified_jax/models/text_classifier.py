r"""A text encoder that is trained to name what a text says: one linear head per label on its pooled vector (`heads`).

The model generates nothing; as a stage it encodes captions for another model. With `objects`, its tokens are one for
each object that a text may name: the probabilities p_1 .. p_k of that object's labels side by side,

    token = sqrt(features / k) [p_1, ..., p_k]                          of mean square 1 where the heads are sure

so that which attribute is of which object is read off, where a network must otherwise find it among the words' tokens.
What a text leaves out can be drawn (`complete`), so that a network is asked for whole objects, as it knows them best.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.label import Label
from unified_jax.models.base import Declared, Terms
from unified_jax.models.heads import HEADS, axes_of_heads, check_labels, classify, init_heads, logits_of
from unified_jax.models.stages import Encoded, Part
from unified_jax.models.text_encoder import TextEncoder
from unified_jax.typing import Batch, Keys, Params

DRAW = 7301
"""Purpose of the first draw of what a text leaves out."""


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
        return self._said(params, self._text(params, text))

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """The cross-entropy of each label; metrics hold the share of right answers (`accuracy/NAME`)."""
        return classify(self.logits(params, batch[self.encoder.text.name]), batch)

    def encode(self, params: Params, x: Array, keys: Keys | None = None) -> Encoded:
        """See `Encoder`."""
        whole = self._text(params, x, keys)
        if not self.objects:
            return whole
        said = self._said(params, whole)
        return self._of_objects([[jax.nn.softmax(said[name]) for name in names] for names in self.objects], whole)

    def complete(self, params: Params, x: Array, keys: Keys) -> Encoded:
        """See `Completes`: labels that the text does not name are drawn uniformly from their classes.

        An object is there where its likeliest labels name anything of it. All probabilities are then 0 or 1.
        """
        whole = self._text(params, x, keys)
        if not self.objects:
            return whole
        said = self._said(params, whole)
        null = [said[name].shape[-1] - 1 for name in self.objects[0]]
        found = [[jnp.argmax(said[name], axis=-1) for name in names] for names in self.objects]
        there = [jnp.stack(row) != jnp.asarray(null)[:, None] for row in found]
        for j, name in enumerate(self.objects[0]):
            for i, row in enumerate(found):
                taken = [other[j] for other in found if other is not row and name in self.apart]
                drawn = _draw(keys, DRAW + j * len(found) + i, taken, null[j])
                row[j] = jnp.where(there[i].any(0) & ~there[i][j], drawn, row[j])
        sure = [[jax.nn.one_hot(c, k + 1) for c, k in zip(row, null, strict=True)] for row in found]
        return self._of_objects(sure, whole)

    def condition_form(self, part: Part) -> ConditionForm:
        """See `Encoder`."""
        if part == "pooled" and self.vector == "objects":
            size = self._features() * len(self.objects)
            return ConditionForm(self.encoder.text.name, "vector", size, null="learned")
        if part != "tokens" or not self.objects:
            return self.encoder.condition_form(part)
        return ConditionForm(self.encoder.text.name, "tokens", self._features(), len(self.objects), null="learned")

    def _text(self, params: Params, x: Array, keys: Keys | None = None) -> Encoded:
        return self.encoder.encode({name: value for name, value in params.items() if name != HEADS}, x, keys)

    def _said(self, params: Params, whole: Encoded) -> dict[str, Float[Array, "b k"]]:
        pooled: Any = whole.pooled
        return logits_of(self.labels, params[HEADS], pooled)

    def _of_objects(self, rows: list[list[Array]], whole: Encoded) -> Encoded:
        """Tokens, and a vector, of the probabilities of each label of each object."""
        scale = math.sqrt(self._features() / len(self.objects[0]))
        tokens = scale * jnp.stack([jnp.concatenate(row, axis=-1) for row in rows], axis=1)
        length = jnp.full(len(tokens), len(rows), jnp.int32)
        return Encoded(tokens, length, whole.pooled if self.vector == "text" else tokens.reshape(len(tokens), -1))

    def _features(self) -> int:
        return sum(label.classes + 1 for label in self.labels if label.name in self.objects[0])


def _draw(keys: Keys, purpose: int, taken: list[Int[Array, "b"]], classes: int) -> Int[Array, "b"]:
    """A class for each key, of those that are not taken, if there are any."""
    free = jnp.ones((len(keys), classes), bool)
    for one in taken:
        free &= jnp.arange(classes) != one[:, None]
    logits = jnp.where(free | ~free.any(1, keepdims=True), 0.0, -jnp.inf)
    return jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, purpose), row))(keys, logits)
