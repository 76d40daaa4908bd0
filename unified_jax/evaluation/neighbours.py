r"""Precision and recall of samples (Kynkaanniemi et al. 2019): shares of one set inside the other's manifold.

    r_i        = distance of vector i of a set to its k-th neighbour in that set (itself not counted)
    precision  = share of samples within r_i of some real vector i;  recall the same with the sets exchanged

Distances come from blocks of products, |a|^2 + |b|^2 - 2 a b, whose rounding is about 1e-13 of the norms. What is
decided by less than that is decided again from the differences themselves: the result is that of comparing every pair,
duplicates included.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

BLOCK = 2048
"""Vectors of a block: at most BLOCK^2 distances are held at a time."""
SPARE = 8
"""Neighbours beyond the k-th whose distances are computed exactly: more than that many never tie to rounding."""
DOUBT = 1e-10
"""Squared distances that differ by less than this part of the largest squared norm are computed exactly."""


def precision_recall(
    real: Float[np.ndarray, "n d"], made: Float[np.ndarray, "m d"], neighbours: int = 3,
    report: Callable[[int], Any] = lambda done: None,
) -> tuple[float, float]:  # fmt: skip
    """(precision, recall). `report(n)` after n more vectors, of 2 (n + m).

    Raises ValueError unless both sets have more vectors than `neighbours`.
    """
    if min(len(real), len(made)) <= neighbours:
        raise ValueError(
            f"Precision and recall over {neighbours} neighbours need more vectors, found {len(real)} and {len(made)}."
        )
    balls = [radii(x, neighbours, report) for x in (real, made)]
    return (
        float(covered(real, balls[0], made, report).mean()),
        float(covered(made, balls[1], real, report).mean()),
    )


def radii(
    x: Float[np.ndarray, "n d"], neighbours: int, report: Callable[[int], Any] = lambda done: None
) -> Float[np.ndarray, "n"]:
    """The distance of each vector to its k-th neighbour, float64."""
    found = np.empty(len(x))
    for rows in _blocks(len(x)):
        a = np.asarray(x[rows], np.float64)
        nearest: list[np.ndarray] = []
        names: list[np.ndarray] = []
        for columns in _blocks(len(x)):
            squared, _ = _squared(a, x[columns])
            kept = min(neighbours + 1 + SPARE, squared.shape[1])
            chosen = np.argpartition(squared, kept - 1, axis=1)[:, :kept]
            nearest.append(np.take_along_axis(squared, chosen, 1))
            names.append(chosen + columns.start)
        order = np.argsort(np.concatenate(nearest, 1), axis=1, kind="stable")[:, : neighbours + 1 + SPARE]
        chosen = np.take_along_axis(np.concatenate(names, 1), order, 1)
        for i, row in enumerate(a):
            exact = np.sqrt(((row - np.asarray(x[np.sort(chosen[i])], np.float64)) ** 2).sum(1))
            found[rows.start + i] = np.sort(exact)[neighbours]
        report(len(a))
    return found


def covered(
    centres: Float[np.ndarray, "n d"], radius: Float[np.ndarray, "n"], probes: Float[np.ndarray, "m d"],
    report: Callable[[int], Any] = lambda done: None,
) -> Bool[np.ndarray, "m"]:  # fmt: skip
    """Whether each probe lies within the radius of some centre."""
    inside = np.zeros(len(probes), bool)
    for rows in _blocks(len(probes)):
        a = np.asarray(probes[rows], np.float64)
        found = np.zeros(len(a), bool)
        for columns in _blocks(len(centres)):
            squared, slack = _squared(a, centres[columns])
            margin = radius[columns] ** 2 - squared
            found |= (margin > slack).any(1)
            for i, j in zip(*np.nonzero((abs(margin) <= slack) & ~found[:, None]), strict=True):
                difference = a[i] - np.asarray(centres[columns.start + j], np.float64)
                found[i] |= bool(np.sqrt((difference**2).sum()) <= radius[columns.start + j])
        inside[rows] = found
        report(len(a))
    return inside


def _blocks(n: int) -> list[slice]:
    return [slice(at, min(at + BLOCK, n)) for at in range(0, n, BLOCK)]


def _squared(a: Float[np.ndarray, "n d"], b: np.ndarray) -> tuple[Float[np.ndarray, "n m"], float]:
    """(squared distances, how far they may be off)."""
    b = np.asarray(b, np.float64)
    left, right = (a * a).sum(1), (b * b).sum(1)
    squared = left[:, None] + right[None] - 2.0 * (a @ b.T)
    return squared, DOUBT * float(max(left.max(), right.max()))
