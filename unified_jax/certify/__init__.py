"""Reference numbers of each family, computed with this library: `run(tensors, config) -> {output: array}`.

A golden file stores a reference implementation's inputs, weights and outputs. Arrays there are channel-first; the
conversion is here, at the edge. An output without a result is reported as uncovered. An option is supported as in
the reference, or reported: it is never ignored, nor replaced by a default (`certify.options`). There is one file per
family.
"""

from typing import NamedTuple

import numpy as np


class Unserved(Exception):
    """The file asks for something that its family does not support; the message names it."""


class NotServed(NamedTuple):
    """An output that its family does not support, and why."""

    reason: str


class Disputed(NamedTuple):
    """An output where the reference is known to be wrong: our value, the value with its mistake, and why."""

    ours: np.ndarray
    theirs: np.ndarray
    reason: str


class NotOurs(NamedTuple):
    """An output of a function that this library does not have, and the difference."""

    reason: str


class Cancelled(NamedTuple):
    """A small difference of larger numbers, and their size: it holds their float64 rounding."""

    ours: np.ndarray
    terms: float
