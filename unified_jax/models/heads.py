"""Linear heads over an encoder's vector, one per label: what classifiers of texts and of images share.

    loss = sum over labels of the cross-entropy of softmax(W pooled + b)

The null row of a label is a class of its own: "it does not say".
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.modalities.label import Label
from unified_jax.models.base import Terms
from unified_jax.precision import EXACT
from unified_jax.typing import Batch, Params

HEADS = "heads"


def check_labels(owner: str, source: str, labels: tuple[Label, ...]) -> None:
    """Raises ValueError for no labels, or names that are not distinct."""
    names = [source, *(label.name for label in labels)]
    if not labels or len(set(names)) < len(names):
        raise ValueError(f"{owner} needs labels with distinct names, found {', '.join(names[1:]) or 'none'}.")


def init_heads(labels: tuple[Label, ...], width: int) -> Params:
    """Zeros, so that every class starts as likely."""
    return {
        label.name: {"kernel": jnp.zeros((width, label.classes + 1)), "bias": jnp.zeros((label.classes + 1,))}
        for label in labels
    }


def axes_of_heads(labels: tuple[Label, ...]) -> Any:
    """Logical axis names of every parameter."""
    return {label.name: {"kernel": ("embed", None), "bias": (None,)} for label in labels}


def logits_of(labels: tuple[Label, ...], heads: Params, pooled: Float[Array, "b v"]) -> dict[str, Float[Array, "b k"]]:
    """Unnormalised log-probabilities of the classes of every label, its null last."""
    return {
        label.name: jnp.matmul(pooled, heads[label.name]["kernel"], precision=EXACT) + heads[label.name]["bias"]
        for label in labels
    }


def classify(logits: dict[str, Float[Array, "b k"]], batch: Batch) -> tuple[Terms, Any, Terms]:
    """The cross-entropy of each label; metrics hold the share of right answers (`accuracy/NAME`)."""
    terms: Terms = {}
    metrics: Terms = {}
    one = jnp.ones(len(batch["slot"]))
    for name, found in logits.items():
        target = batch[name]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(found), target[:, None], axis=1)[:, 0]
        terms[name] = -chosen, one
        right = jnp.argmax(found, axis=1) == target
        metrics[f"accuracy/{name}"] = jnp.sum(right).astype(jnp.float32), jnp.sum(one)
    return terms, {}, metrics
