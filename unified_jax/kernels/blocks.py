r"""Which blocks of keys a block of queries needs: a short list for each, so that a kernel neither loads nor computes
the others.

With queries cut into blocks of `rows` and keys into blocks of `columns`,

    needed(i, j)    some query of block i sees some key of block j
    covered(i, j)   every query of block i sees every key of block j: no mask is needed there

A list holds a count, then for each needed block the number 2 j + (0 if covered else 1), in rising order. The lists of
the transposed question (which query blocks a key block needs) are what the gradient of keys and values loops over.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from unified_jax.kernels.inputs import Visible


class Lists(NamedTuple):
    """For each of i blocks, how many of k blocks it needs, and which."""

    count: Int[Array, "b i"]
    code: Int[Array, "b i k"]
    """2 j + (0 if covered else 1); beyond the count the last needed one again, which costs no further load."""

    @property
    def flat(self) -> Int[Array, "l"]:
        """All in one row, count before codes: list (b, i) begins at (b I + i) (1 + K)."""
        return jnp.concatenate([self.count[..., None], self.code], axis=-1).reshape(-1)


class Blocks(NamedTuple):
    """The lists of both directions."""

    keys: Lists
    """Key blocks of each query block."""
    queries: Lists
    """Query blocks of each key block."""


def whole_runs(batch: int, queries: int, keys: int) -> Visible:
    """The runs of attention without a mask."""
    return jnp.broadcast_to(jnp.array([0, keys], jnp.int32), (batch, queries, 2))


def clean_runs(visible: Visible, keys: int, rows: int) -> Int[Array, "b n2 2"]:
    """The runs within `[0, keys]`, with empty ones for the queries that fill up the last block."""
    n = visible.shape[1]
    clipped = jnp.clip(visible.astype(jnp.int32), 0, keys)
    return jnp.pad(clipped, ((0, 0), (0, -n % rows), (0, 0)))


def blocks_of(runs: Visible, keys: int, rows: int, columns: int) -> Blocks:
    """The lists for runs as `clean_runs` gives them."""
    start, stop = (runs[..., i].reshape(len(runs), -1, rows, 1) for i in (0, 1))
    low = jnp.arange(-(-keys // columns)) * columns
    high = low + columns
    needed = jnp.any(jnp.maximum(start, low) < jnp.minimum(stop, high), axis=2)
    covered = jnp.all((start <= low) & (stop >= high), axis=2)
    return Blocks(_lists(needed, covered), _lists(needed.swapaxes(1, 2), covered.swapaxes(1, 2)))


def _lists(needed: Bool[Array, "b i k"], covered: Bool[Array, "b i k"]) -> Lists:
    count = jnp.sum(needed, axis=-1, dtype=jnp.int32)
    order = jnp.argsort(~needed, axis=-1, stable=True).astype(jnp.int32)
    place = jnp.minimum(jnp.arange(needed.shape[-1]), jnp.maximum(count - 1, 0)[..., None])
    code = 2 * order + jnp.where(jnp.take_along_axis(covered, order, axis=-1), 0, 1)
    return Lists(count, jnp.take_along_axis(code, place, axis=-1))
