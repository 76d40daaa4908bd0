"""A text encoder that is trained to name what a text says: one linear head per label on its pooled vector.

    loss = sum over labels of the cross-entropy of softmax(W pooled + b)

The null row of a label is a class of its own: "the text does not say". The model generates nothing; as a stage it
encodes captions for another model (its heads come along, unused).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.label import Label
from unified_jax.models.base import Declared, Terms
from unified_jax.models.stages import Encoded, Part
from unified_jax.models.text_encoder import TextEncoder
from unified_jax.precision import EXACT
from unified_jax.typing import Batch, Keys, Params

HEADS = "heads"


@dataclass(frozen=True)
class TextClassifier(Declared):
    """A text encoder with a head per label."""

    encoder: TextEncoder
    """The transformer over the text."""
    labels: tuple[Label, ...]
    """What is predicted: fields of the batch."""

    def __post_init__(self) -> None:
        names = [self.encoder.text.name, *(label.name for label in self.labels)]
        if not self.labels or len(set(names)) < len(names):
            raise ValueError(
                f"TextClassifier needs labels with distinct names, found {', '.join(names[1:]) or 'none'}."
            )

    @property
    def modalities(self) -> tuple[Any, ...]:
        """The text, then the labels."""
        return self.encoder.text, *self.labels

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters; the heads are zero, so that every class starts as likely."""
        width = self.encoder.network.width
        heads = {
            label.name: {"kernel": jnp.zeros((width, label.classes + 1)), "bias": jnp.zeros((label.classes + 1,))}
            for label in self.labels
        }
        return {**self.encoder.init(key), HEADS: heads}

    def axes(self) -> Any:
        """Logical axis names of every parameter."""
        heads = {label.name: {"kernel": ("embed", None), "bias": (None,)} for label in self.labels}
        return {**self.encoder.axes(), HEADS: heads}

    def logits(self, params: Params, text: Array) -> dict[str, Float[Array, "b k"]]:
        """Unnormalised log-probabilities of the classes of every label, its null last."""
        pooled: Any = self.encode(params, text).pooled
        heads = params[HEADS]
        return {
            label.name: jnp.matmul(pooled, heads[label.name]["kernel"], precision=EXACT) + heads[label.name]["bias"]
            for label in self.labels
        }

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """The cross-entropy of each label; metrics hold the share of right answers (`accuracy/NAME`)."""
        del aux, key
        terms: Terms = {}
        metrics: Terms = {}
        one = jnp.ones(len(batch["slot"]))
        for name, logits in self.logits(params, batch[self.encoder.text.name]).items():
            target = batch[name]
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=1)[:, 0]
            terms[name] = -chosen, one
            right = jnp.argmax(logits, axis=1) == target
            metrics[f"accuracy/{name}"] = jnp.sum(right).astype(jnp.float32), jnp.sum(one)
        return terms, {}, metrics

    def encode(self, params: Params, x: Array, keys: Keys | None = None) -> Encoded:
        """See `Encoder`."""
        return self.encoder.encode({name: value for name, value in params.items() if name != HEADS}, x, keys)

    def condition_form(self, part: Part) -> ConditionForm:
        """See `Encoder`."""
        return self.encoder.condition_form(part)
