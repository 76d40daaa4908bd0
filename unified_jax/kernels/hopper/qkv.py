r"""Norm, modulation and projection in one kernel on Hopper: the matmul's left operand is computed in registers.

    XLA: mean and rstd of each row;  a = gain (1 + scale) and c = offset (1 + scale) + shift of each example
    for each example, block of rows (64 for each consumer) and block of outputs:
        acc = 0
        for each chunk of features (x, W, a, c by TMA, a few stages ahead):
            h   = ((x - mean) rstd) a + c        in registers, float32, then rounded to W's dtype
            acc = acc + h W                      wgmma, h in registers, W in shared memory
        y = acc + bias

So the normalised and modulated x never goes to memory. One consumer computes its h while the other has the matrix unit.

Only one row of modulation per example: with an index per token, h would need a gather of two values per feature and
token into the accumulator's layout, which costs more than it saves. There XLA computes h.
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
from unified_jax.kernels.inputs import Modulation, NormKind, QkvWeights, Rotary


def consume(ring: tuple[Ref, ...], moments: tuple[Array, Array], chunks: int, tiles: Tiles, interpret: bool) -> Array:
    """A consumer's loop over chunks of features: 64 rows of outputs, before the bias."""
    x_smem, w_smem, rows_smem, ready, free = ring
    wg = lax.axis_index("wg")

    def step_of(step: Array, acc: Array) -> Array:
        slot = lax.rem(step, jnp.int32(tiles.stages))
        plgpu.barrier_wait(ready.at[slot])
        x = compat.load_tile(x_smem.at[slot, wg]).astype(jnp.float32)
        mean, rstd = (compat.along_rows(moment, x.shape) for moment in moments)
        gain, offset = (compat.along_columns(compat.load_columns(rows_smem.at[slot, i]), x.shape) for i in (0, 1))
        h = ((x - mean) * rstd * gain + offset).astype(w_smem.dtype)
        (acc,) = compat.add_products((acc, h, w_smem.at[slot]), interpret=interpret)
        plgpu.barrier_arrive(free.at[slot])
        return acc

    return lax.fori_loop(0, chunks, step_of, compat.filled((ROWS, tiles.columns), 0.0))


def qkv_kernel(
    x_ref: Ref, w_ref: Ref, rows_ref: Ref, moments_ref: Ref, bias_ref: Ref, y_ref: Ref, y_smem: Ref, *ring: Ref,
    tiles: Tiles, interpret: bool,
) -> None:  # fmt: skip
    """One program: a tile of outputs of one example."""
    blocks = pl.cdiv(y_ref.shape[1], tiles.rows), pl.cdiv(y_ref.shape[2], tiles.columns)
    batch, row, column = tile_at(y_ref.shape[0], *blocks)
    wg = lax.axis_index("wg")
    chunks = pl.cdiv(x_ref.shape[2], tiles.depth)
    columns = pl.ds(column * tiles.columns, tiles.columns)

    @pl.when(wg == 2)
    def _() -> None:
        def rows_of(half: int, step: Array) -> Ref:
            return x_ref.at[batch, pl.ds(row * tiles.rows + half * ROWS, ROWS), pl.ds(step * tiles.depth, tiles.depth)]

        def weights(step: Array) -> Ref:
            return w_ref.at[pl.ds(step * tiles.depth, tiles.depth), columns]

        def modulation(step: Array) -> Ref:
            return rows_ref.at[batch, :, pl.ds(step * tiles.depth, tiles.depth)]

        x_smem, w_smem, rows_smem, ready, free = ring
        halves = tuple((partial(rows_of, half), lambda slot, half=half: x_smem.at[slot, half]) for half in (0, 1))
        copies = *halves, (weights, slots(w_smem)), (modulation, slots(rows_smem))
        produce((Lane(copies, ready, free),), chunks, tiles.stages)

    @pl.when(wg < 2)
    def _() -> None:
        plgpu.set_max_registers(240, action="increase")
        rows = pl.ds(row * tiles.rows + wg * ROWS, ROWS)
        mean, rstd = (compat.load_rows(moments_ref.at[batch, i, rows]) for i in (0, 1))
        acc = consume(ring, (mean, rstd), chunks, tiles, interpret)
        # A slice at a time: the bias along all columns would take half as many registers as the accumulator.
        for first in range(0, tiles.columns, 64):
            part, here = acc[:, first : first + 64], pl.ds(column * tiles.columns + first, 64)
            bias = compat.along_columns(compat.load_columns(bias_ref.at[here]), part.shape)
            y_smem.at[wg, :, pl.ds(first, 64)][...] = (part + bias).astype(y_ref.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(y_smem.at[wg], y_ref.at[batch, rows, columns])
        plgpu.wait_smem_to_gmem(0)


def modulated_matmul(
    x: Float[Array, "b n d"],
    moments: Float[Array, "b 2 n"],
    rows: Float[Array, "b 2 d"],
    w: Float[Array, "d f"],
    bias: Float[Array, "f"],
    *,
    interpret: bool = False,
) -> Float[Array, "b n f"]:
    """(((x - mean) rstd) a + c) w + bias in w's dtype; moments are (mean, rstd), rows are (a, c)."""
    (b, n, _), f, dtype = x.shape, w.shape[1], w.dtype
    # A float32 x takes twice the memory of its stage.
    tiles = tiles_for(f, stages=3 if jnp.dtype(x.dtype).itemsize == 2 else 2)
    x = pad_axis(pad_axis(x, 2, tiles.depth), 1, 8)
    w = pad_axis(pad_axis(w, 0, tiles.depth), 1, 64)
    rows, moments = pad_axis(rows.astype(jnp.float32), 2, tiles.depth), pad_axis(moments, 2, tiles.rows)
    bias = pad_axis(bias.astype(jnp.float32), 0, tiles.columns)
    (y,) = compat.launch(
        partial(qkv_kernel, tiles=tiles, interpret=interpret),
        out=[jax.ShapeDtypeStruct((b, x.shape[1], w.shape[1]), dtype)],
        scratch=[
            compat.tiled((2, ROWS, tiles.columns), dtype),
            compat.tiled((tiles.stages, 2, ROWS, tiles.depth), x.dtype),
            compat.tiled((tiles.stages, tiles.depth, tiles.columns), dtype),
            plgpu.SMEM((tiles.stages, 2, tiles.depth), jnp.float32),
            plgpu.Barrier(num_arrivals=4, num_barriers=tiles.stages),
            plgpu.Barrier(num_arrivals=2, num_barriers=tiles.stages),
        ],
        grid=(pl.cdiv(f, tiles.columns) * pl.cdiv(n, tiles.rows) * b,),
        axes=("tile",),
        warpgroups=3,
        interpret=interpret,
    )(x, w, rows, moments, bias)
    return y[:, :n, :f]


def row_moments(x: Float[Array, "b n d"], norm: NormKind, eps: float) -> Float[Array, "b 2 n"]:
    """(mean, 1 / standard deviation) of each row in float32, as the norm needs them."""
    x = x.astype(jnp.float32)
    zero = jnp.zeros(x.shape[:-1], jnp.float32)
    if norm == "none":
        return jnp.stack([zero, zero + 1], axis=1)
    mean = jnp.mean(x, axis=-1) if norm == "layer" else zero
    square = jnp.mean((x - mean[..., None]) ** 2, axis=-1)
    return jnp.stack([mean, lax.rsqrt(square + eps)], axis=1)


def modulation_rows(modulation: Modulation | None, weights: QkvWeights, b: int, d: int) -> Float[Array, "b 2 d"]:
    """(a, c) of norm(x) a + c: the norm's gain and offset, and one row of modulation per example, in one."""
    gain = jnp.ones(d, jnp.float32) if weights.norm_scale is None else weights.norm_scale.astype(jnp.float32)
    offset = jnp.zeros(d, jnp.float32) if weights.norm_bias is None else weights.norm_bias.astype(jnp.float32)
    if modulation is None:
        return jnp.broadcast_to(jnp.stack([gain, offset]), (b, 2, d))
    scale, shift = 1 + modulation.scale[:, 0].astype(jnp.float32), modulation.shift[:, 0].astype(jnp.float32)
    return jnp.broadcast_to(jnp.stack([gain * scale, offset * scale + shift], axis=1), (b, 2, d))


def modulated_qkv(
    x: Float[Array, "b n d"],
    modulation: Modulation | None,
    weights: QkvWeights,
    *,
    norm: NormKind,
    eps: float,
    rotary: Rotary | None,
    interpret: bool = False,
) -> tuple[Array, Array, Array]:
    """Queries `[b, n, g r, e]`, keys and values `[b, n, g, e]` in the kernel's dtype."""
    if modulation is not None and modulation.index is not None:
        return xla.modulated_qkv(x, modulation, weights, norm=norm, eps=eps, rotary=rotary)
    (b, n, d), (_, g, r2, e) = x.shape, weights.kernel.shape
    bias = jnp.zeros((g, r2, e), jnp.float32) if weights.bias is None else weights.bias
    rows = modulation_rows(modulation, weights, b, d)
    fused = modulated_matmul(
        x, row_moments(x, norm, eps), rows, weights.kernel.reshape(d, -1), bias.reshape(-1), interpret=interpret
    )
    fused = fused.reshape(b, n, g, r2, e)
    return xla.heads_of(fused, weights, rotary, eps)
