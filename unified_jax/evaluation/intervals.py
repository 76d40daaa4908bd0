r"""Intervals of distances between sets, without the bias of few vectors.

A Frechet distance of n vectors a set is too large by about c / n: two halves of one real set are at a distance above 0.
The interval is of the distance between the distributions, and may lie below the printed value:

    centre = D(a, b) - mean over random divisions of the joined set into n and m of D
    half   = the larger of Student's interval of a jackknife over groups, and of the spread of those divisions

If both sets come from one distribution, D(a, b) is one of those divisions, and the interval holds 0 for any n. If they
differ, the jackknife over groups (each left out of both sets in turn) measures how far D itself varies. A set of which
only moments are known gives the jackknife alone, for at least three vectors a feature.

A kernel distance has no bias: its interval is Student's over disjoint blocks of both sets.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from unified_jax.evaluation.distances import Sums, frechet, frechet_distance, squared_mmd, sums

GROUPS = 10
DIVISIONS = 10
BLOCK = 1000
"""Most vectors of a block of a kernel distance."""
Moments = tuple[np.ndarray, np.ndarray]


class Interval(NamedTuple):
    """A 95 % interval; NaN where there is none."""

    centre: float
    low: float
    high: float


NONE = Interval(math.nan, math.nan, math.nan)


def student_half(values: np.ndarray) -> float:
    """Half of Student's 95 % interval of a mean."""
    return float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values)))


def frechet_interval(
    a: Float[np.ndarray, "n d"],
    b: Float[np.ndarray, "m d"],
    seed: int = 0,
    report: Callable[[int], Any] = lambda done: None,
) -> Interval:
    """The interval of a Frechet distance; NONE for fewer than four vectors a group. `report(1)` after each part."""
    if min(len(a), len(b)) < 4 * GROUPS:
        return NONE
    rng = np.random.default_rng(seed)
    whole = frechet(a, b)
    groups = [np.array_split(rng.permutation(len(x)), GROUPS) for x in (a, b)]
    left = _left_out(a, b, groups, report) if _many(a, b) else _left_out_few(a, b, groups, report)
    pseudo = GROUPS * whole - (GROUPS - 1) * np.array(left)
    floor = np.array(_divisions(a, b, rng, report))
    centre = whole - float(floor.mean())
    half = max(student_half(pseudo), float(stdtrit(DIVISIONS - 1, 0.975) * floor.std(ddof=1)))
    return Interval(centre, centre - half, centre + half)


def against_moments(
    a: Float[np.ndarray, "n d"], known: Moments, seed: int = 0, report: Callable[[int], Any] = lambda done: None
) -> Interval:
    """The interval of the distance to a set of which only mean and covariance are known."""
    if len(a) < 3 * a.shape[1] or len(a) < 4 * GROUPS:
        return NONE
    centre = a.mean(0, dtype=np.float64)
    total = sums(a, centre)
    whole = frechet_distance(*total.moments(centre), *known)
    rows = np.array_split(np.random.default_rng(seed).permutation(len(a)), GROUPS)
    left = []
    for group in rows:
        left.append(frechet_distance(*(total - sums(a[group], centre)).moments(centre), *known))
        report(1)
    pseudo = GROUPS * whole - (GROUPS - 1) * np.array(left)
    middle, half = float(pseudo.mean()), student_half(pseudo)
    return Interval(middle, middle - half, middle + half)


def kernel_interval(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], seed: int = 0) -> Interval:
    """The interval of a kernel distance; NONE for fewer than four vectors a block."""
    size = min(len(a) // GROUPS, len(b) // GROUPS, BLOCK)
    if size < 4:
        return NONE
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(len(x))[: size * GROUPS].reshape(GROUPS, size) for x in (a, b)]
    found = np.array([squared_mmd(a[i], b[j]) for i, j in zip(*rows, strict=True)])
    middle, half = float(found.mean()), student_half(found)
    return Interval(middle, middle - half, middle + half)


def _many(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether sums over vectors are cheaper than products between them."""
    return len(a) * len(b) > a.shape[1] ** 2


def _left_out(a: np.ndarray, b: np.ndarray, groups: list[Any], report: Callable[[int], Any]) -> list[float]:
    """The distance without each group, from the sums of all less those of the group."""
    centre = a.mean(0, dtype=np.float64)
    total = [sums(x, centre) for x in (a, b)]
    found = []
    for rows in zip(*groups, strict=True):
        one, other = (whole - sums(x[i], centre) for whole, x, i in zip(total, (a, b), rows, strict=True))
        found.append(_of_sums(one, other, centre))
        report(1)
    return found


def _left_out_few(a: np.ndarray, b: np.ndarray, groups: list[Any], report: Callable[[int], Any]) -> list[float]:
    found = []
    for i, j in zip(*groups, strict=True):
        found.append(frechet(np.delete(a, i, 0), np.delete(b, j, 0)))
        report(1)
    return found


def _divisions(a: np.ndarray, b: np.ndarray, rng: np.random.Generator, report: Callable[[int], Any]) -> list[float]:
    """The distances of random divisions of both sets together."""
    n, found = len(a), []
    centre = a.mean(0, dtype=np.float64)
    whole = _sum(sums(a, centre), sums(b, centre)) if _many(a, b) else None
    for _ in range(DIVISIONS):
        order = rng.permutation(n + len(b))
        first, second = np.sort(order[:n]), np.sort(order[n:])
        if whole is not None:
            part = _sum(sums(a[first[first < n]], centre), sums(b[first[first >= n] - n], centre))
            found.append(_of_sums(part, whole - part, centre))
        else:
            x, y = (np.concatenate([a[rows[rows < n]], b[rows[rows >= n] - n]]) for rows in (first, second))
            found.append(frechet(x, y))
        report(1)
    return found


def _sum(one: Sums, other: Sums) -> Sums:
    return Sums(one.n + other.n, one.total + other.total, one.products + other.products)


def _of_sums(one: Sums, other: Sums, centre: np.ndarray) -> float:
    return frechet_distance(*one.moments(centre), *other.moments(centre))
