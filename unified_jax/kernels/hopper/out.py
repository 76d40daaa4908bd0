r"""Output projection with the gate and the residual in its epilogue, on Hopper.

    for each example, block of rows (64 for each consumer) and block of outputs:
        acc = sum over chunks of features of a W         wgmma, both operands in shared memory, one under way
        y   = x + gate (acc + bias)                      x by TMA while the last products run; gate is a row per example

Gates with an index per token are not supported: there XLA adds the residual to the plain product.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from unified_jax.kernels import xla
from unified_jax.kernels.hopper import compat
from unified_jax.kernels.hopper.compat import Ref
from unified_jax.kernels.hopper.gemm import ROWS, Tiles, pad_axis, tile_at, tiles_for
from unified_jax.kernels.hopper.ring import Lane, produce, slots
from unified_jax.kernels.inputs import Index, OutWeights, Rows


def consume(ring: tuple[Ref, ...], chunks: int, tiles: Tiles) -> Array:
    """A consumer's sum over chunks: 64 rows of a W."""
    a_smem, w_smem, ready, free = ring
    wg = lax.axis_index("wg")

    def slot(step: Array) -> Array:
        return lax.rem(step, jnp.int32(tiles.stages))

    return compat.product_of_chunks(
        (ROWS, tiles.columns),
        chunks,
        ready=lambda step: plgpu.barrier_wait(ready.at[slot(step)]),
        pair=lambda step: (a_smem.at[slot(step), wg], w_smem.at[slot(step)]),
        release=lambda step: plgpu.barrier_arrive(free.at[slot(step)]),
    )


def out_kernel(
    x_ref: Ref, a_ref: Ref, w_ref: Ref, gate_ref: Ref, bias_ref: Ref, y_ref: Ref, x_smem: Ref, x_ready: Ref,
    *ring: Ref, tiles: Tiles,
) -> None:  # fmt: skip
    """One program: a tile of outputs of one example."""
    blocks = pl.cdiv(y_ref.shape[1], tiles.rows), pl.cdiv(y_ref.shape[2], tiles.columns)
    batch, row, column = tile_at(y_ref.shape[0], *blocks)
    wg = lax.axis_index("wg")
    chunks = pl.cdiv(a_ref.shape[2], tiles.depth)
    columns = pl.ds(column * tiles.columns, tiles.columns)

    @pl.when(wg == 2)
    def _() -> None:
        def rows_of(half: int, step: Array) -> Ref:
            return a_ref.at[batch, pl.ds(row * tiles.rows + half * ROWS, ROWS), pl.ds(step * tiles.depth, tiles.depth)]

        def weights(step: Array) -> Ref:
            return w_ref.at[pl.ds(step * tiles.depth, tiles.depth), columns]

        a_smem, w_smem, ready, free = ring
        halves = tuple((partial(rows_of, half), lambda slot, half=half: a_smem.at[slot, half]) for half in (0, 1))
        produce((Lane((*halves, (weights, slots(w_smem))), ready, free),), chunks, tiles.stages)

    @pl.when(wg < 2)
    def _() -> None:
        plgpu.set_max_registers(240, action="increase")
        rows = pl.ds(row * tiles.rows + wg * ROWS, ROWS)
        mine = x_smem.at[wg]
        plgpu.copy_gmem_to_smem(x_ref.at[batch, rows, columns], mine, x_ready.at[wg])
        acc = consume(ring, chunks, tiles)
        plgpu.barrier_wait(x_ready.at[wg])
        # A slice at a time: a vector along all columns would take half as many registers as the accumulator.
        for first in range(0, tiles.columns, 64):
            part, here = acc[:, first : first + 64], pl.ds(column * tiles.columns + first, 64)
            rows_of = (compat.load_columns(ref) for ref in (bias_ref.at[here], gate_ref.at[batch, here]))
            bias, gate = (compat.along_columns(row, part.shape) for row in rows_of)
            x = compat.load_tile(mine.at[:, pl.ds(first, 64)]).astype(jnp.float32)
            mine.at[:, pl.ds(first, 64)][...] = (x + gate * (part + bias)).astype(y_ref.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(mine, y_ref.at[batch, rows, columns])
        plgpu.wait_smem_to_gmem(0)


def gated_matmul(
    x: Float[Array, "b n d"],
    a: Float[Array, "b n f"],
    w: Float[Array, "f d"],
    gate: Float[Array, "b d"],
    bias: Float[Array, "d"],
    *,
    interpret: bool = False,
) -> Float[Array, "b n d"]:
    """x + gate (a w + bias) in x's dtype, without a gradient."""
    (b, n, d), dtype = x.shape, w.dtype
    # The tile of x is in shared memory next to the ring: with float32 half as many columns fit.
    wide = jnp.dtype(x.dtype).itemsize <= 2
    tiles = tiles_for(d, stages=3, widest=256 if wide else 192)
    x, a = pad_axis(pad_axis(x, 2, 64), 1, 8), pad_axis(pad_axis(a.astype(dtype), 2, tiles.depth), 1, 8)
    w = pad_axis(pad_axis(w, 0, tiles.depth), 1, 64)
    gate, bias = (pad_axis(row.astype(jnp.float32), -1, tiles.columns) for row in (gate, bias))
    (y,) = compat.launch(
        partial(out_kernel, tiles=tiles),
        out=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
        scratch=[
            compat.tiled((2, ROWS, tiles.columns), x.dtype),
            plgpu.Barrier(num_barriers=2),
            compat.tiled((tiles.stages, 2, ROWS, tiles.depth), dtype),
            compat.tiled((tiles.stages, tiles.depth, tiles.columns), dtype),
            plgpu.Barrier(num_arrivals=3, num_barriers=tiles.stages),
            plgpu.Barrier(num_arrivals=2, num_barriers=tiles.stages),
        ],
        grid=(pl.cdiv(d, tiles.columns) * pl.cdiv(n, tiles.rows) * b,),
        axes=("tile",),
        warpgroups=3,
        interpret=interpret,
    )(x, a, w, gate, bias)
    return y[:, :n, :d]


def gated_out(
    x: Float[Array, "b n d"],
    a: Float[Array, "b n h e"],
    weights: OutWeights,
    gate: Rows | None,
    index: Index | None,
    interpret: bool = False,
) -> Float[Array, "b n d"]:
    """x + gate * (W a + b); the residual stream keeps x's dtype."""
    if gate is not None and index is not None:
        return xla.gated_out(x, a, weights, gate, index)
    b, n, d = x.shape
    row = jnp.ones((b, d), jnp.float32) if gate is None else jnp.broadcast_to(gate[:, 0], (b, d))
    bias = jnp.zeros(d, jnp.float32) if weights.bias is None else weights.bias
    return gated_matmul(x, a.reshape(b, n, -1), weights.kernel.reshape(-1, d), row, bias, interpret=interpret)
