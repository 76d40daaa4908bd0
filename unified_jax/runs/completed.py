"""Labels that a request leaves out, drawn: a picture of a red star gets some size and some place.

A model of several labels learns the distribution for each set of given ones, and those of few labels last: it has to
agree with itself, from noise alone, about all that was left open. Drawing the missing labels first, each uniformly from
its classes, asks the model for what it knows best. Where labels depend on one another in the data, name them all.
"""

import zlib
from typing import Any

import numpy as np

from unified_jax.modalities.label import Label


def completed(model: Any, rows: dict[str, np.ndarray], count: int, first: int, seed: int) -> dict[str, np.ndarray]:
    """`rows` `[count, ...]` with a class for each label that is missing or null; sample i depends on (seed, i)."""
    asked, _ = model.request((), ())
    labels = [m for m in model.modalities if m.name in asked and isinstance(m, Label)]
    return rows | {m.name: _classes(m, rows.get(m.name, np.full(count, m.null)), first, seed) for m in labels}


def _classes(label: Label, given: np.ndarray, first: int, seed: int) -> np.ndarray:
    made = np.array(given, np.int32)
    for i in np.flatnonzero(made == label.null):
        rng = np.random.default_rng([seed, first + int(i), zlib.crc32(label.name.encode())])
        made[i] = rng.integers(label.classes)
    return made
