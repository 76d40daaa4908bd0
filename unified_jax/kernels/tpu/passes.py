"""How a kernel of attention walks over blocks on a TPU: the grid, the block of every operand, and the call.

over_keys      a step for each query block and each key block that it needs: outputs of queries
over_queries   a step for each key block and each query block that needs it, of all the query heads that a key head
               serves, one after the other: outputs of keys
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from unified_jax.kernels.blocks import Lists


def in_list(table: Any, lists: Any, length: int, at: Any) -> tuple[Array, Array, Array]:
    """(is entry `at` of list `lists` a block without a mask, is it one with a mask, the block), of a table in SMEM."""
    first = lists * (2 + length)
    full, needed = table[first], table[first + 1]
    return at < full, (at >= full) & (at < needed), table[first + 2 + at]


def block_at(table: Any, lists: Any, length: int, at: Any) -> Any:
    """The block of entry `at`, for index maps."""
    return table[lists * (2 + length) + 2 + at]


class Pass(NamedTuple):
    """The grid and its blocks. Operands are `[b, h, n, e]`, rows `[b, h, 1, n]`, key ranges `[b, 2, n]`."""

    grid: tuple[int, ...]
    """(batch, heads, blocks of the output, steps of each)."""
    table: Array
    """Which blocks a step takes (`Lists.flat`)."""
    length: int
    """Blocks in a list."""
    query: pl.BlockSpec
    key: pl.BlockSpec
    row: pl.BlockSpec
    """A number per query."""
    run: pl.BlockSpec
    """The key ranges of queries."""
    rows: int
    """Queries in a block."""
    columns: int
    """Keys in a block."""


def over_keys(q: Array, k: Array, keys: Lists) -> Pass:
    """For every query block the key blocks of its list."""
    b, h, n, e = q.shape
    lists, length = keys.blocks.shape[1:]
    r, rows, columns = h // k.shape[1], n // lists, k.shape[2] // length

    def key_block(b: Any, h: Any, i: Any, j: Any, table: Any) -> tuple[Any, ...]:
        return b, jax.lax.div(h, r), block_at(table, b * lists + i, length, j), 0

    return Pass(
        (b, h, lists, length), keys.flat, length,
        pl.BlockSpec((None, None, rows, e), lambda b, h, i, j, table: (b, h, i, 0)),
        pl.BlockSpec((None, None, columns, e), key_block),
        pl.BlockSpec((None, None, 1, rows), lambda b, h, i, j, table: (b, h, 0, i)),
        pl.BlockSpec((None, 2, rows), lambda b, h, i, j, table: (b, 0, i)),
        rows, columns,
    )  # fmt: skip


def over_queries(q: Array, k: Array, queries: Lists) -> Pass:
    """For every key block the query blocks of its list, of each of its query heads."""
    b, h, n, e = q.shape
    lists, length = queries.blocks.shape[1:]
    groups, rows, columns = k.shape[1], n // length, k.shape[2] // lists
    r = h // groups

    def place(b: Any, g: Any, i: Any, at: Any, table: Any) -> tuple[Any, Any]:
        """(query head, query block) of a step."""
        entry = jax.lax.rem(at, length)
        return g * r + jax.lax.div(at, length), block_at(table, b * lists + i, length, entry)

    return Pass(
        (b, groups, lists, r * length), queries.flat, length,
        pl.BlockSpec((None, None, rows, e), lambda b, *at: (b, *place(b, *at), 0)),
        pl.BlockSpec((None, None, columns, e), lambda b, g, i, at, table: (b, g, i, 0)),
        pl.BlockSpec((None, None, 1, rows), lambda b, *at: (b, place(b, *at)[0], 0, place(b, *at)[1])),
        pl.BlockSpec((None, 2, rows), lambda b, *at: (b, 0, place(b, *at)[1])),
        rows, columns,
    )  # fmt: skip


def call(
    walk: Pass, kernel: Callable[..., None], name: str, given: tuple[Array, ...], ins: list[Any], outs: Any,
    shapes: Any, scratch: list[tuple[int, ...]], estimate: pl.CostEstimate, interpret: Any,
) -> Any:  # fmt: skip
    """The outputs of `kernel(length, table, *operands, *outputs, *scratch)`; the last axis of the grid is in order."""
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=walk.grid,
        in_specs=ins,
        out_specs=outs,
        scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
    )
    return pl.pallas_call(
        functools.partial(kernel, walk.length),
        grid_spec=grid,
        out_shape=shapes,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3 + ("arbitrary",)),
        cost_estimate=estimate,
        interpret=interpret,
        name=name,
    )(walk.table, *given)


def cost(q: Array, k: Array, products: int) -> pl.CostEstimate:
    """An upper bound for the compiler's schedule: all blocks, `products` matrix products."""
    b, h, n, e = q.shape
    pairs = b * h * n * k.shape[2]
    moved = (2 * q.size + 2 * k.size) * q.dtype.itemsize
    return pl.CostEstimate(flops=2 * products * pairs * e, transcendentals=pairs, bytes_accessed=moved)
