"""How each family of reference numbers is computed with this library: `run(tensors, config) -> {output: array}`, one
file per family.

A golden file stores a reference implementation's inputs, weights and outputs. Arrays there are channel-first; the
conversion is here, at the edge. An output that `run` leaves out is reported as uncovered. An option is served as the
reference means it, or named: it is never ignored, nor replaced by a default (`goldens.options`).
"""

from typing import NamedTuple

import numpy as np


class Unserved(Exception):
    """The file asks for something that its family does not serve here; the message names it."""


class NotServed(NamedTuple):
    """An output that asks for something that its family does not serve here, and what that is."""

    reason: str


class Disputed(NamedTuple):
    """An output where the reference is known to be wrong: our value, what its mistake gives, and why."""

    ours: np.ndarray
    theirs: np.ndarray
    reason: str


class NotOurs(NamedTuple):
    """An output of a function that this library does not have, and what is different."""

    reason: str


class Cancelled(NamedTuple):
    """A number that is left over where larger ones cancel, and their size: their float64 rounding is in it."""

    ours: np.ndarray
    terms: float
