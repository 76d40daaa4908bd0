r"""Grids of times: falling arrays `[k + 1]`, the first entry noise, the last data. A sampler takes one as an argument.

Continuous time: uniform from 1 to 0, with the resolution shift t' = s t / (1 + (s - 1) t) (Esser et al. 2024, section
5.3.2; s > 1 spends more steps near noise). Discrete time: indices of the chain and then -1, the data.
"""

import numpy as np
from jaxtyping import Float, Int


def shift_times(t: Float[np.ndarray, "k"], shift: float) -> Float[np.ndarray, "k"]:
    """The resolution shift; keeps 0 and 1."""
    return shift * t / (1.0 + (shift - 1.0) * t)


def uniform_grid(steps: int, shift: float = 1.0, start: float = 1.0, end: float = 0.0) -> Float[np.ndarray, "k"]:
    """`steps` + 1 times from start to end, shifted. Raises ValueError unless steps >= 1 and 1 >= start > end >= 0."""
    if steps < 1:
        raise ValueError(f"A grid needs at least one step, found {steps}.")
    if not 1.0 >= start > end >= 0.0:
        raise ValueError(f"A grid falls from start to end within [0, 1], found start {start}, end {end}.")
    if shift <= 0:
        raise ValueError(f"The shift of a grid must be positive, found {shift}.")
    return shift_times(np.linspace(start, end, steps + 1), shift)


def discrete_grid(length: int) -> Int[np.ndarray, "k"]:
    """length - 1, ..., 0, -1: a whole chain, every index once."""
    return np.arange(length - 1, -2, -1, dtype=np.int32)
