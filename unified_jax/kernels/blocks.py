r"""Lists of the key blocks that each query block needs, so that a kernel skips the others.

With queries divided into blocks of `rows` and keys into blocks of `columns`, key block j is, for query block i,

    needed    if some query of block i attends to some key of block j
    full      if every query of block i attends to every key of block j: no mask is needed

A list has the full blocks first, then the other needed ones, each in increasing order, and two counts: of full and of
needed blocks. The gradient of keys and values uses the transposed lists (the query blocks that a key block needs).
Padding queries of the last block are ignored: their results are dropped.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from unified_jax.kernels.inputs import Visible


class Lists(NamedTuple):
    """For each of i blocks, the needed ones of j blocks."""

    blocks: Int[Array, "b i j"]
    """The needed blocks first; then the last of them again, which a pipeline does not load a second time."""
    count: Int[Array, "b i 2"]
    """(full, needed)."""

    @property
    def flat(self) -> Int[Array, "l"]:
        """All lists in one row, counts before blocks: list (b, i) begins at (b I + i) (2 + J)."""
        return jnp.concatenate([self.count, self.blocks], axis=-1).reshape(-1)


class Blocks(NamedTuple):
    """The lists of both directions, and the key ranges for the masks."""

    keys: Lists
    """Key blocks of each query block."""
    queries: Lists
    """Query blocks of each key block."""
    runs: Int[Array, "b 2 n2"]
    """Starts and stops of full blocks of queries, within the keys."""


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple that holds `size`."""
    return -(-size // multiple) * multiple


def whole_runs(batch: int, queries: int, keys: int) -> Visible:
    """The key ranges of attention without a mask."""
    return jnp.broadcast_to(jnp.array([0, keys], jnp.int32), (batch, queries, 2))


def blocks_of(visible: Visible, keys: int, rows: int, columns: int) -> Blocks:
    """The lists for key ranges over `keys` keys."""
    visible = jnp.clip(visible.astype(jnp.int32), 0, keys)
    fill = ((0, 0), (0, -visible.shape[1] % rows), (0, 0))
    first = jnp.arange(0, keys, columns)
    start, stop = visible[..., :1], visible[..., 1:]
    meets = jnp.maximum(start, first) < jnp.minimum(stop, first + columns)
    holds = (start <= first) & (stop >= first + columns)
    cut = (len(visible), -1, rows, first.size)
    needed = jnp.any(jnp.pad(meets, fill).reshape(cut), axis=2)
    full = jnp.all(jnp.pad(holds, fill, constant_values=True).reshape(cut), axis=2)
    runs = jnp.moveaxis(jnp.pad(visible, fill), -1, 1)
    return Blocks(_lists(needed, full), _lists(needed.swapaxes(1, 2), full.swapaxes(1, 2)), runs)


def _lists(needed: Bool[Array, "b i j"], full: Bool[Array, "b i j"]) -> Lists:
    order = jnp.argsort(jnp.where(full, 0, jnp.where(needed, 1, 2)), axis=-1, stable=True).astype(jnp.int32)
    count = jnp.stack([jnp.sum(full, axis=-1), jnp.sum(needed, axis=-1)], axis=-1).astype(jnp.int32)
    place = jnp.minimum(jnp.arange(needed.shape[-1]), jnp.maximum(count[..., 1:] - 1, 0))
    return Lists(jnp.take_along_axis(order, place, axis=-1), count)
