"""Attribute accuracy on the world: what a reader finds in a sample against its condition.

The accuracy of a sample is the mean over the attributes that its condition names and that an image shows (motion does
not show in one image). The scored object is the best-fitting one of at most two; if the model is not
conditioned on a second object, a sample without exactly one object scores zero.
"""

import numpy as np
from jaxtyping import Float, Int

from unified_jax.data.world.read import Reading
from unified_jax.data.world.scene import ATTRIBUTES

SHOWN = ("shape", "colour", "size", "place")
"""Attributes that an image shows."""


def attribute_hits(
    reading: Reading, asked: dict[str, Int[np.ndarray, "b"]]
) -> tuple[tuple[str, ...], Float[np.ndarray, "b k"], Float[np.ndarray, "b k"]]:
    """(names, hit `[b, k]` 0 or 1, named `[b, k]` 1 where the condition names the attribute and 0 where it is null)."""
    found = {"shape": reading.shape, "colour": reading.colour, "size": reading.size, "place": reading.place}
    names = tuple(name for name in SHOWN if name in asked)
    values = dict(ATTRIBUTES)
    named = np.stack([asked[name] < len(values[name]) for name in names], axis=1).astype(np.float64)
    hits = np.stack([found[name] == asked[name][:, None] for name in names], axis=2).astype(np.float64)
    best = (hits * named[:, None]).sum(2).argmax(1)
    return names, hits[np.arange(len(hits)), best] * (reading.count == 1)[:, None], named


def sample_accuracy(hits: Float[np.ndarray, "b k"], named: Float[np.ndarray, "b k"]) -> Float[np.ndarray, "s"]:
    """Accuracy of every sample whose condition names at least one attribute."""
    some = named.sum(1) > 0
    return (hits * named).sum(1)[some] / named.sum(1)[some]


def chance(names: tuple[str, ...]) -> float:
    """Mean accuracy of a guess."""
    return float(np.mean([1.0 / len(dict(ATTRIBUTES)[name]) for name in names]))
