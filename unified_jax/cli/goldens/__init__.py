"""How each family of reference numbers is computed with this library: `run(tensors, config) -> {output: array}`, one
file a family.

A golden file stores a reference implementation's inputs, weights and outputs. Arrays there are channel-first; the
conversion is here, at the edge. An output that `run` leaves out is reported as uncovered.
"""

from typing import NamedTuple

import numpy as np


class Disputed(NamedTuple):
    """An output where the reference is known to be wrong: our value, what its mistake gives, and why."""

    ours: np.ndarray
    theirs: np.ndarray
    reason: str


class NotOurs(NamedTuple):
    """An output of a function that this library does not have, and what is different."""

    reason: str
