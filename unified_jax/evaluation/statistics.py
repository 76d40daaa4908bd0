r"""Intervals, and comparisons of runs over seeds.

A comparison pairs the runs of two arms by seed. With differences d_1 .. d_n, mean D and standard deviation s, the
interval is D +- t_{n-1, 0.975} s / sqrt(n) and the p-value that of Student's two-sided t-test of D = 0. Of m
comparisons, Holm's (1979) correction multiplies the k-th smallest p-value by m - k + 1 (and keeps them monotone).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

SIGNIFICANCE = 0.04
"""Significance level: a corrected p-value below it is claimed as a difference.

The test is exact for normal differences: at 0.05, half of all batches of trials between equal arms would hold more
than 5 % false claims.
"""
FEWEST = 5
"""Paired seeds below which nothing is claimed."""


class Mean(NamedTuple):
    """A mean over seeds with its Student-t 95 % interval (infinite for one seed)."""

    value: float
    low: float
    high: float
    n: int


def wilson_interval(rate: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval (95 %) of a rate over n independent trials.

    For a mean of several scores per sample, n is the number of samples, so that the interval is never too narrow.

    >>> [round(x, 3) for x in wilson_interval(0.5, 100)]
    [0.404, 0.596]
    """
    if n < 1 or not 0.0 <= rate <= 1.0:
        raise ValueError(f"A Wilson interval needs n >= 1 and a rate in [0, 1], found n = {n}, rate = {rate}.")
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def student_mean(values: Sequence[float]) -> Mean:
    """The mean of independent values and its Student-t 95 % interval. Raises ValueError for none."""
    n = len(values)
    if n < 1:
        raise ValueError("A mean needs at least one value.")
    mean = float(np.mean(values))
    if n == 1:
        return Mean(mean, -math.inf, math.inf, 1)
    half = float(stdtrit(n - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Mean(mean, mean - half, mean + half, n)


def paired_p(differences: Sequence[float]) -> float:
    """p-value of Student's two-sided t-test that paired differences have mean 0; 1 for fewer than two."""
    n = len(differences)
    if n < 2 or not np.any(differences):
        return 1.0
    error = float(np.std(differences, ddof=1)) / math.sqrt(n)
    if error == 0.0:
        return 0.0
    return float(2 * stdtr(n - 1, -abs(float(np.mean(differences))) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the given order.

    >>> [round(p, 3) for p in holm([0.01, 0.04])]
    [0.02, 0.04]
    """
    corrected, running = [1.0] * len(p_values), 0.0
    for k, i in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, min(1.0, (len(p_values) - k) * p_values[i]))
        corrected[i] = running
    return corrected


def claims(p_corrected: float, n: int) -> bool:
    """Whether a comparison of n paired seeds may be called a difference."""
    return n >= FEWEST and p_corrected < SIGNIFICANCE


def slope_interval(x: Sequence[float], y: Sequence[float]) -> Mean:
    """Slope of the least-squares line through n points and its Student-t 95 % interval (n - 2 degrees of freedom).

    Over logarithms it is the exponent of a power law. Raises ValueError for fewer than three points or a single x.
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    if len(a) < 3 or np.ptp(a) == 0:
        raise ValueError(f"A slope with an interval needs three points and two values of x, found {len(a)} points.")
    centred = a - a.mean()
    slope = float(centred @ b / (centred @ centred))
    rest = b - b.mean() - slope * centred
    error = math.sqrt(float(rest @ rest) / (len(a) - 2) / float(centred @ centred))
    half = float(stdtrit(len(a) - 2, 0.975)) * error
    return Mean(slope, slope - half, slope + half, len(a))
