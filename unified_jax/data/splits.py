"""Which records are held out where a set has no split of its own for them.

Row i is in the split test where a hash of i is among the smallest `share` of all rows, and at least one of two rows is:
a list keeps its split wherever it lies, and rows that are neighbours are in both.
"""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int

from unified_jax.data.kinds import split_of
from unified_jax.errors import UserError

Side = Literal["all", "kept", "held"]


def check_share(data: Any) -> None:
    """Raises ValueError for a data set's `test` outside [0, 1)."""
    if not 0 <= data.test < 1:
        raise ValueError(f"{type(data).__name__}.test is a share of the records in [0, 1), found {data.test}.")


def by_folder(heads: list[str]) -> tuple[list[str | None], tuple[str, ...]]:
    """(the split of each first folder, the splits that are there): None for all, and train, where none is `train`.

    Beside folders of splits, what lies elsewhere is in no split.

    >>> by_folder(["train", "val", "notes"])
    (['train', 'validation', None], ('train', 'validation'))
    """
    sides = [split_of(head) for head in heads]
    if "train" not in sides:
        return [None] * len(heads), ("train",)
    return sides, tuple(dict.fromkeys(side for side in sides if side))


def within(sides: list[str | None], group: str) -> Bool[np.ndarray, "k"]:
    """Which of `by_folder`'s are of a split; all where none is named."""
    return np.array([side == group for side in sides], bool) if any(sides) else np.ones(len(sides), bool)


def known_splits(there: Iterable[str], share: float) -> tuple[str, ...]:
    """The splits that are there, and test where a share of train is held out for it.

    >>> known_splits(("train",), 0.05), known_splits(("train",), 0.0)
    (('train', 'test'), ('train',))
    """
    there = tuple(there)
    return (*there, "test") if "test" not in there and "train" in there and share > 0 else there


def pick_split(name: str, split: str, there: tuple[str, ...], share: float) -> tuple[str, Side]:
    """(the split that is read, which of its records) for a wanted split. UserError for one that is not there."""
    known = known_splits(there, share)
    held = known != there
    if split in there:
        return split, "kept" if split == "train" and held else "all"
    if split == "test" and held:
        return "train", "held"
    more = "" if share else "; a positive test share holds some out"
    raise UserError(f"Data set {name!r} has no split {split!r}; it has: {', '.join(known) or 'none'}{more}.")


def part_of(count: int, side: Side, share: float) -> Int[np.ndarray, "k"] | None:
    """The rows of a side, increasing; None for all."""
    if side == "all":
        return None
    held = held_out(count, share)
    return np.flatnonzero(held if side == "held" else ~held)


def held_out(count: int, share: float) -> np.ndarray:
    """Which of `count` rows are in the split test.

    >>> int(held_out(100, 0.05).sum()), int(held_out(3, 0.05).sum())
    (5, 1)
    """
    mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    wanted = max(round(share * count), 1) if count > 1 and share else 0
    found = np.zeros(count, bool)
    found[np.argsort(mixed, kind="stable")[:wanted]] = True
    return found
