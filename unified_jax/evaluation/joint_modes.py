r"""What one network says of all distributions of the world's modalities: marginals, round trips, and Gibbs chains.

The any-to-any matrix has every conditional and the joint (`matrix`). Here, of models of streams:

readable      share of samples that are drawn from nothing and show exactly one object (a caption: that parse)
kept          b given a, then a given b: how often the last shows what the one in between says of an attribute; what
              the first left out is the model's to choose, so the scene is not asked
tv            total variation between the values in samples and those of the world, 0.5 sum_k |n_k / n - p_k|;
              `value` is what lies above sqrt(k / (2 pi n)), about the mean of an exact sampler's

A chain that starts at one scene and returns its input has a tv near 1 - 1 / k.
"""

import itertools
import math
from typing import Any

import numpy as np

from unified_jax.data.world.scene import PLACES, combinations
from unified_jax.evaluation.matrix import VALUES, Found, make_row, scores

JOINT = ("shape", "colour", "size", "place")
"""Attributes whose distribution is known in closed form and that an image shows."""
Row = dict[str, Any]


def expected(names: tuple[str, ...]) -> np.ndarray:
    """The probabilities of the values of these attributes, `[k, ...]`, of a training scene of one object.

    >>> expected(("place", "size")).shape, round(float(expected(("place",))[4]), 4)
    ((9, 3), 0.1111)
    """
    whole = np.zeros((*(VALUES[name] for name in JOINT[:3]), len(PLACES)))
    found = combinations("train")
    for combination in found:
        whole[combination] = 1.0 / (len(found) * len(PLACES))
    others = tuple(i for i, name in enumerate(JOINT) if name not in names)
    return np.transpose(whole.sum(axis=others), np.argsort(np.argsort([JOINT.index(name) for name in names])))


def total_variation(names: tuple[str, ...], values: list[np.ndarray]) -> tuple[float, float]:
    """(total variation of samples with these values, below 0 where nothing is read; its floor for so many)."""
    p, n = expected(names), len(values[0])
    counts = np.zeros(p.shape)
    read = np.all([value >= 0 for value in values], axis=0)
    np.add.at(counts, tuple(value[read] for value in values), 1)
    lost = (n - counts.sum()) / n
    return 0.5 * (float(np.abs(counts / n - p).sum()) + lost), math.sqrt(p.size / (2 * math.pi * n))


def tv_rows(found: Found, given: tuple[str, ...], wanted: str, split: str, metric: str) -> list[Row]:
    """A row for each attribute and each pair that an image shows."""
    rows = []
    there = [name for name in JOINT if name in found and found[name][1].all()]
    for names in (*((name,) for name in there), *itertools.combinations(there, 2)):
        tv, floor = total_variation(names, [found[name][0] for name in names])
        row: Row = {"given": list(given), "wanted": [wanted], "split": split, "n": len(found[names[0]][0])}
        blank = {"low": None, "high": None, "chance": None}
        rows.append(row | {"metric": f"{metric}/{'_'.join(names)}", "value": tv - floor, "floor": floor} | blank)
    return rows


def readable_row(found: Found, wanted: str, split: str) -> Row:
    """How many samples show something, and all of it readable."""
    right = np.ones(len(next(iter(found.values()))[0]), bool)
    for value, shown in found.values():
        right &= ~shown | (value >= 0)
    return make_row((), (wanted,), split, "readable", (right.astype(float), np.zeros(len(right))))


def kept_row(between: Found, last: Found, way: tuple[str, str], split: str) -> Row:
    """A round trip a -> b -> a: what b says and whether the new a shows it."""
    said = {name: between[name][0] if name in between else value for name, (value, _) in last.items()}
    row = make_row((way[0],), (way[0],), split, "kept", scores(said, [between], last))
    return row | {"through": way[1]}


def excess(rows: list[Row], metric: str) -> float:
    """The largest total variation above its floor; the goal is at most 0.05."""
    return max(row["value"] for row in rows if row["metric"].startswith(metric))
