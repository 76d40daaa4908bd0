r"""Tiles of tokens and their modulation rows, for the two kernels around attention.

A tile is `examples` x `tokens`: several short examples, or a part of one long one. Rows of scale, shift and gate are
one per example, which broadcasts, or a table `[k, d]` per example with an index per token; then a product with a
one-hot matrix selects the rows, exact in float32.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from unified_jax.kernels.tpu.attend import product

TILE_TOKENS = 512
TILE_BYTES = 2 << 20
"""Bytes of a block of tokens or weights: two of each (double buffering) and a float32 copy fit in VMEM."""


class Tile(NamedTuple):
    """Tokens of one grid step."""

    examples: int
    tokens: int


def tile_of(b: int, n: int, width: int) -> Tile:
    """The tile for `[b, n, width]`: at most 512 tokens and 2 MiB of float32."""
    most = min(TILE_TOKENS, TILE_BYTES // (4 * width))
    most = most // 128 * 128 or max(16, most // 16 * 16)
    if n > most:
        return Tile(1, most)
    whole = n % 16 == 0  # several examples form one matrix only if their tokens fill registers
    return Tile(next(e for e in range(max(1, most // n), 0, -1) if b % e == 0) if whole else 1, n)


def tokens_spec(tile: Tile, width: int) -> pl.BlockSpec:
    """`[b, n, width]` by (examples, tokens)."""
    return pl.BlockSpec((tile.examples, tile.tokens, width), lambda b, i, j: (b, i, 0))


def rows_spec(tile: Tile, k: int, width: int, cut: bool = False) -> pl.BlockSpec:
    """`[b, k, width]`: all rows of the tile's examples; with `cut` the columns of grid step j."""
    return pl.BlockSpec((tile.examples, k, width), lambda b, i, j: (b, 0, j if cut else 0))


def pick(rows: Any, index: Any) -> Array:
    """The row of each token `[e, n, d]`, or `[e, 1, d]`, which broadcasts; `index` is a block `[e, n, 1]` or None."""
    if index is None:
        return rows[...]
    count = rows.shape[1]
    there = jax.lax.broadcasted_iota(jnp.int32, (index.shape[1], count), 1)
    picked = [
        product((index[i] == there).astype(jnp.float32), rows[i].astype(jnp.float32), (1, 0))
        for i in range(rows.shape[0])
    ]
    return jnp.stack(picked)


def flat(x: Array) -> Array:
    """`[e, n, d]` as `[e n, d]`."""
    return x.reshape(-1, x.shape[-1])
