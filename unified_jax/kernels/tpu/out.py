r"""The projection of attention's output back to the residual stream through the gate, for TPU, one kernel.

A = heads of a side by side                     once for each tile of tokens, kept in VMEM
y_j = x_j + gate_j (A W_j + b_j)                for the j-th block of features
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from unified_jax.kernels.inputs import Index, OutWeights, Rows
from unified_jax.kernels.tpu.attend import product
from unified_jax.kernels.tpu.rows import TILE_BYTES, Tile, flat, pick, rows_spec, tile_of


class Inputs(NamedTuple):
    """The inputs of the kernel, and as the same tree how each is partitioned; None if absent."""

    x: Any
    a: Any
    kernel: Any
    bias: Any = None
    gate: Any = None
    index: Any = None


def columns_of(d: int, rows: int, itemsize: int) -> int:
    """Features of a block of weights: all, or the largest multiple of the lanes that divides d and fits."""
    most = max(128, TILE_BYTES // (rows * itemsize))
    if d <= most or d % 128:
        return d
    return next(c for c in range(most // 128 * 128, 0, -128) if d % c == 0)


def gated_out(
    x: Float[Array, "b n d"],
    a: Float[Array, "b n h e"],
    weights: OutWeights,
    gate: Rows | None,
    index: Index | None,
    interpret: Any = False,
) -> Float[Array, "b n d"]:
    """x + gate (W a + b) in x's dtype."""
    (b, n, d), (heads, e) = x.shape, a.shape[2:]
    kernel = weights.kernel.reshape(heads * e, d)
    columns = columns_of(d, heads * e, kernel.dtype.itemsize)
    tile = tile_of(b, n, heads * e)
    bias = None if weights.bias is None else weights.bias[None]
    index = None if gate is None or index is None else index[..., None]
    given = Inputs(x, a.swapaxes(1, 2), kernel, bias, gate, index)
    grid = (b // tile.examples, -(-n // tile.tokens), d // columns)

    def body(given: Inputs, out: Any, side_by_side: Any) -> None:
        _kernel(given, out, side_by_side)

    return pl.pallas_call(
        body,
        grid=grid,
        in_specs=[_specs(given, tile, columns)],
        out_specs=_cut(tile, columns),
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        scratch_shapes=[pltpu.VMEM((tile.examples * tile.tokens, heads * e), kernel.dtype)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        cost_estimate=pl.CostEstimate(
            flops=2 * b * n * kernel.size,
            transcendentals=0,
            bytes_accessed=2 * x.nbytes + a.nbytes + kernel.nbytes * grid[0] * grid[1],
        ),
        interpret=interpret,
        name="gated_out",
    )(given)


def _cut(tile: Tile, columns: int) -> pl.BlockSpec:
    return pl.BlockSpec((tile.examples, tile.tokens, columns), lambda b, i, j: (b, i, j))


def _specs(given: Inputs, tile: Tile, columns: int) -> Inputs:
    heads, e = given.a.shape[1], given.a.shape[-1]
    of_j = lambda rows: pl.BlockSpec((rows, columns), lambda b, i, j: (0, j))  # noqa: E731
    return Inputs(
        x=_cut(tile, columns),
        a=pl.BlockSpec((tile.examples, heads, tile.tokens, e), lambda b, i, j: (b, 0, i, 0)),
        kernel=of_j(given.kernel.shape[0]),
        bias=None if given.bias is None else of_j(1),
        gate=None if given.gate is None else rows_spec(tile, given.gate.shape[1], columns, cut=True),
        index=None if given.index is None else pl.BlockSpec((tile.examples, tile.tokens, 1), lambda b, i, j: (b, i, 0)),
    )


def _kernel(given: Inputs, out: Any, side_by_side: Any) -> None:
    examples, tokens = given.x.shape[:2]
    e = given.a.shape[-1]

    @pl.when(pl.program_id(2) == 0)
    def _gather() -> None:
        for head in range(given.a.shape[1]):
            side_by_side[:, head * e : (head + 1) * e] = flat(given.a[:, head]).astype(side_by_side.dtype)

    y = product(side_by_side[...], given.kernel[...], (1, 0))
    y = y if given.bias is None else y + given.bias[...]
    y = y.reshape(examples, tokens, -1)
    y = y if given.gate is None else pick(given.gate, given.index) * y
    out[...] = (given.x[...].astype(jnp.float32) + y).astype(out.dtype)
