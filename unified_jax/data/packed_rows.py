r"""Packed rows: pictures of several sizes side by side in rows of one length (NaViT, Dehghani et al. 2023). Host side.

    row = tokens of picture 1, tokens of picture 2, ..., padding         each picture at one of `Image.sizes`

A record goes to the size of the nearest proportions; of several with the same proportions to the largest for which
it is not enlarged. Every size has its share of each step (`buckets.Buckets`), so steps have about as many tokens.

Which picture goes to which row is a function of the sizes of a step's slots alone, which every process knows: in
falling order of their tokens each goes to the emptiest row that has room for it, so that rows have about as many
tokens. Where this leaves pictures out, the first row with room is taken instead, which packs tighter. What does not fit
then is dropped and counted; nothing is carried over. Full and less full rows alternate, so that the shards of a batch,
however many, have about as many tokens too.

Of a row, in the batch:

    NAME            uint8 [n, *patch, c]      tokens of the image, zeros in the place of padding
    another field   [k, ...]                  of each picture
    slot            int32 [k]
    rows.item       int32 [n]                 which picture a token is of; -1 is padding
    rows.position   int32 [n, 2]              row and column of the patch in its picture
    rows.grid       int32 [k, 2]              rows and columns of patches of a picture; 0 where there is none
    rows.dropped    int32                     pictures of the whole step that fit nowhere; 0 but in its first row
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from unified_jax.errors import UserError
from unified_jax.modalities.base import blanks
from unified_jax.modalities.grid import grid_of, grid_positions

ITEM, POSITION, GRID, DROPPED = "rows.item", "rows.position", "rows.grid", "rows.dropped"


@dataclass(frozen=True)
class PackedRows:
    """Rows of one length, in which pictures of several sizes lie side by side."""

    length: int = 256
    """Tokens of a row."""
    per_row: int = 4
    """Examples of a batch for each of its rows: a batch of b examples has b / per_row rows."""
    items: int = 16
    """Most pictures in one row."""

    def __post_init__(self) -> None:
        if min(self.length, self.per_row, self.items) < 1:
            raise ValueError(f"PackedRows has a positive length, per_row and items; found {self}.")
        if self.items < self.per_row:
            raise ValueError(
                f"PackedRows.items, the most pictures in a row, is at least per_row, the mean; found {self.items} and "
                f"{self.per_row}."
            )


@dataclass(frozen=True)
class RowPacker:
    """How the examples of a step become rows."""

    modalities: tuple[Any, ...]
    image: Any
    """The modality whose sizes are mixed (`Image`)."""
    policy: PackedRows
    mixed: ClassVar[bool] = True
    """Its rows hold pictures of several sizes, not documents (`packing.Packer`)."""

    def __post_init__(self) -> None:
        for size in self.image.sizes:
            if any(side % part for side, part in zip(size, self.image.cut, strict=True)):
                raise UserError(
                    f"Packed rows hold whole patches, and {self.image.name!r} of {size[0]} x {size[1]} is not "
                    f"divisible into patches of {self.image.cut[0]}."
                )
        if self.longest > self.length:
            raise UserError(
                f"A picture of {self.image.name!r} has up to {self.longest} tokens, and a row {self.length}: raise "
                "PackedRows.length, or the patch."
            )

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.policy.length

    @property
    def grids(self) -> tuple[tuple[int, ...], ...]:
        """Rows and columns of patches of each of the image's sizes."""
        return tuple(grid_of(size, self.image.cut) for size in self.image.sizes)

    @property
    def longest(self) -> int:
        """Most tokens of a picture."""
        return max(math.prod(grid) for grid in self.grids)

    def tokens(self, sizes: Int[np.ndarray, "b"]) -> Int[np.ndarray, "b"]:
        """Tokens of pictures of these sizes, given as indices into `Image.sizes`."""
        return np.asarray([math.prod(grid) for grid in self.grids], np.int64)[sizes]

    def rows_of(self, sizes: Int[np.ndarray, "b"]) -> Int[np.ndarray, "b"]:
        """The row of each example of a step; -1 of one that fits nowhere."""
        return placed(self.tokens(sizes), len(sizes) // self.policy.per_row, self.length, self.policy.items)

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """The arrays of empty rows."""
        n, k, image = self.length, self.policy.items, self.image
        arrays = {
            "slot": np.zeros((rows, k), np.int32),
            ITEM: np.full((rows, n), -1, np.int32),
            POSITION: np.zeros((rows, n, 2), np.int32),
            GRID: np.zeros((rows, k, 2), np.int32),
            DROPPED: np.zeros(rows, np.int32),
            image.name: np.zeros((rows, n, *image.cut, image.channels), np.uint8),
        }
        for modality in self.modalities:
            found = {} if modality == image else blanks(modality)
            arrays |= {name: np.broadcast_to(one, (rows, k, *one.shape)).copy() for name, one in found.items()}
        return arrays

    def pack(
        self,
        held: Int[np.ndarray, "r"],
        rows: Int[np.ndarray, "b"],
        sizes: Int[np.ndarray, "b"],
        example: Callable[[int], dict[str, np.ndarray]],
    ) -> dict[str, np.ndarray]:
        """The arrays of the rows that a process holds; `example(slot)` is prepared at its size, `rows` as `rows_of`."""
        arrays = self.empty(len(held))
        for i, row in enumerate(held):
            at = 0
            for place, slot in enumerate(np.flatnonzero(rows == row)):
                record, grid = example(int(slot)), self.grids[sizes[slot]]
                stop = at + math.prod(grid)
                arrays["slot"][i, place], arrays[GRID][i, place] = slot, grid
                arrays[ITEM][i, at:stop] = place
                arrays[POSITION][i, at:stop] = grid_positions(self.image.sizes[sizes[slot]], self.image.cut)
                arrays[self.image.name][i, at:stop] = patches_of(record[self.image.name], self.image.cut)
                for name in record.keys() - {self.image.name}:
                    arrays[name][i, place] = record[name]
                at = stop
        arrays[DROPPED][held == 0] = np.count_nonzero(rows < 0)
        return arrays


def patches_of(picture: np.ndarray, cut: tuple[int, int]) -> np.ndarray:
    """A picture `[h, w, c]` as patches `[n, *cut, c]`, in the order of `grid.patchify`."""
    (rows, columns), channels = grid_of(picture.shape[:2], cut), picture.shape[-1]
    apart = picture.reshape(rows, cut[0], columns, cut[1], channels)
    return apart.swapaxes(1, 2).reshape(rows * columns, *cut, channels)


def placed(tokens: Int[np.ndarray, "b"], rows: int, length: int, items: int) -> Int[np.ndarray, "b"]:
    """The row of each of the pictures with so many tokens; -1 of one that fits nowhere."""
    order = np.argsort(-tokens, kind="stable")

    def fill(first: bool) -> Int[np.ndarray, "b"]:
        used, count = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        found = np.full(len(tokens), -1, np.int64)
        for slot in order:
            room = (used + tokens[slot] <= length) & (count < items)
            if room.any():
                row = int(np.argmax(room)) if first else int(np.argmin(np.where(room, used, length + 1)))
                found[slot], used[row], count[row] = row, used[row] + tokens[slot], count[row] + 1
        return found

    even = fill(False)
    tight = even if (even >= 0).all() else fill(True)
    return _alternating(tight if tokens[tight < 0].sum() < tokens[even < 0].sum() else even, tokens, rows)


def _alternating(row: Int[np.ndarray, "b"], tokens: Int[np.ndarray, "b"], rows: int) -> Int[np.ndarray, "b"]:
    """The same with rows in another order: any 2^j equal runs of them hold every 2^j-th of the rows by fullness."""
    there = row >= 0
    full = np.argsort(-np.bincount(row[there], tokens[there], rows), kind="stable")
    bits = max(1, (rows - 1).bit_length())
    place = np.empty(rows, np.int64)
    place[full] = sorted(range(rows), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return np.where(there, place[row], -1)


def imbalance(used: Int[np.ndarray, "r"], shards: int) -> float:
    """By how much the fullest of the shards of a batch exceeds their mean, from the tokens used in each row.

    Raises UserError unless the rows are divisible over the shards.
    """
    if len(used) % shards:
        raise UserError(f"{len(used)} rows are not divisible over {shards} shards.")
    each = used.reshape(shards, -1).sum(axis=1)
    return float(each.max() / each.mean() - 1)


def roomiest(size: tuple[int, int], sizes: tuple[tuple[int, int], ...]) -> int:
    """The size for a picture of this (height, width).

    That of the nearest proportions; of several the largest for which it is not enlarged, else the smallest.

    >>> roomiest((50, 100), ((32, 32), (16, 32), (32, 64), (64, 128)))
    2
    """
    apart = [abs(math.log(size[0] / size[1]) - math.log(height / width)) for height, width in sizes]
    near = [i for i, one in enumerate(apart) if one == min(apart)]
    within = [i for i in near if sizes[i][0] <= size[0] and sizes[i][1] <= size[1]]
    pick = max if within else min
    return pick(within or near, key=lambda i: math.prod(sizes[i]))
