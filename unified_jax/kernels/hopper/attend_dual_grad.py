r"""The tangent of attention's gradient on Hopper: the formulas of `tpu.attend_dual_grad`, for the queries.

    s = q k^T,  s. = q. k^T + q k.^T,  g = do v^T - D,  g. = do. v^T + do v.^T - D.
    p = 2^(s c - lse log2(e)),   p. = p (scale s. - lse.),   ds = p g,   ds. = p. g + p g.
    dq = scale sum ds k,   dq. = scale sum (ds. k + ds k.)

Keys and values are in `attend_dual_keys`. Like `hopper.attend_grad`, rows of empty key ranges and past the end come in
with lse = +inf, so that p and p. are 0.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from unified_jax.kernels.blocks import round_up
from unified_jax.kernels.hopper import compat
from unified_jax.kernels.hopper.attend import (
    LOG2E,
    ROWS,
    Launch,
    Tables,
    Walk,
    pad_to,
    padded_head,
    tables_of,
    visible_part,
    walk_of,
)
from unified_jax.kernels.hopper.attend_dkv import KeyLaunch
from unified_jax.kernels.hopper.attend_dual import Ring, block_of, tiled
from unified_jax.kernels.hopper.attend_dual_keys import key_gradients
from unified_jax.kernels.hopper.attend_grad import row_stats
from unified_jax.kernels.hopper.compat import Ref
from unified_jax.kernels.hopper.ring import Lane, produce, slots
from unified_jax.kernels.inputs import Visible


class Own(NamedTuple):
    """A consumer's 64 query rows, values and tangents."""

    q: Ref
    do: Ref
    q2: Ref
    do2: Ref


def consume(
    mine: Own, ring: Ring, stats: Ref, walk: Walk, runs: tuple[Array, ...] | None, launch: Launch
) -> tuple[Array, Array]:
    """A consumer's loop: (dq, dq.) before the scale; `stats` are its (lse log2(e), D, lse., D.) in global memory."""

    def step_of(step: Array, sums: tuple[Array, Array], *, masked: bool) -> tuple[Array, Array]:
        dq, dq2 = sums
        slot = lax.rem(step, jnp.int32(launch.stages))
        k, v, k2, v2 = (ref.at[slot] for ref in ring[:4])
        kt, vt, kt2, vt2 = (ref.transpose((1, 0)) for ref in (k, v, k2, v2))
        plgpu.barrier_wait(ring.ready.at[slot])

        def row(i: int) -> Array:
            return compat.along_rows(compat.load_rows(stats.at[i]), (ROWS, launch.block_k))

        s = compat.product(mine.q, kt)
        if masked:
            s = visible_part(s, walk.block(step) * launch.block_k, runs, launch)
        p = jnp.exp2(s * (launch.scale * LOG2E) - row(0))
        p2 = p * (compat.sum_of_products((mine.q2, kt), (mine.q, kt2)) * launch.scale - row(2))
        g = compat.product(mine.do, vt) - row(1)
        g2 = compat.sum_of_products((mine.do2, vt), (mine.do, vt2)) - row(3)
        ds, ds2 = (p * g).astype(k.dtype), (p2 * g + p * g2).astype(k.dtype)
        dq, dq2 = compat.add_products((dq, ds, k), (dq2, ds2, k), interpret=launch.interpret)
        (dq2,) = compat.add_products((dq2, ds, k2), interpret=launch.interpret)
        plgpu.barrier_arrive(ring.free.at[slot])
        return dq, dq2

    sums = compat.filled(mine.q.shape, 0.0), compat.filled(mine.q.shape, 0.0)
    sums = lax.fori_loop(0, walk.full, partial(step_of, masked=False), sums)
    return lax.fori_loop(walk.full, walk.total, partial(step_of, masked=True), sums)


def query_kernel(*refs: Ref, launch: Launch) -> None:
    """One program: a block of query rows of one head of one example."""
    (q, k, v, do, q2, k2, v2, do2, stats), refs = refs[:9], refs[9:]
    tables, outs, own, mine_ready, ring = refs[:-13], refs[-13:-11], Own(*refs[-11:-7]), refs[-7], Ring(*refs[-6:])
    head, batch, wg = lax.axis_index("head"), lax.axis_index("batch"), lax.axis_index("wg")
    row = pl.cdiv(q.shape[1], launch.block_q) - 1 - lax.axis_index("row")
    walk = walk_of(tables, batch, row, launch)

    @pl.when(wg == 2)
    def _() -> None:
        group = lax.div(head, jnp.int32(launch.repeats))

        def keys(ref: Ref, step: Array) -> Ref:
            return ref.at[batch, pl.ds(walk.block(step) * launch.block_k, launch.block_k), group]

        copies = tuple((partial(keys, x), slots(there)) for x, there in zip((k, v, k2, v2), ring[:4], strict=True))
        produce((Lane(copies, ring.ready, ring.free),), walk.total, launch.stages)

    @pl.when(wg < 2)
    def _() -> None:
        plgpu.set_max_registers(240, action="increase")
        rows = pl.ds(row * launch.block_q + wg * ROWS, ROWS)
        mine = Own(*(ref.at[wg] for ref in own))
        for source, target in zip((q, do, q2, do2), mine, strict=True):
            plgpu.copy_gmem_to_smem(source.at[batch, rows, head], target, mine_ready.at[wg])
        runs = tuple(compat.load_rows(tables[2].at[batch, i, rows]) for i in (0, 1)) if tables else None
        plgpu.barrier_wait(mine_ready.at[wg])
        found = consume(mine, ring, stats.at[batch, head, :, rows], walk, runs, launch)
        for i, target in enumerate((mine.q, mine.q2)):
            target[...] = (found[i] * launch.scale).astype(target.dtype)
        plgpu.commit_smem()
        for i, source in enumerate((mine.q, mine.q2)):
            plgpu.copy_smem_to_gmem(source, outs[i].at[batch, rows, head])
        plgpu.wait_smem_to_gmem(0)


def query_gradients(given: list[Array], stats: Array, tables: Tables, launch: Launch) -> tuple[Array, Array]:
    """(dq, dq.) of padded (q, k, v, do) and their tangents."""
    (b, n, h, head), dtype = given[0].shape, given[0].dtype
    own, ring = (tiled(shape, dtype) for shape in ((2, ROWS, head), (launch.stages, launch.block_k, head)))
    dq, dq2 = compat.launch(
        partial(query_kernel, launch=launch),
        out=[jax.ShapeDtypeStruct(given[0].shape, dtype)] * 2,
        scratch=[
            *[own] * 4,
            plgpu.Barrier(num_arrivals=4, num_barriers=2),
            *[ring] * 4,
            plgpu.Barrier(num_arrivals=4, num_barriers=launch.stages),
            plgpu.Barrier(num_arrivals=2, num_barriers=launch.stages),
        ],
        grid=(b, h, pl.cdiv(n, launch.block_q)),
        axes=("batch", "head", "row"),
        warpgroups=3,
        interpret=launch.interpret,
    )(*given, stats, *tables)
    return dq, dq2


def backward(
    at: tuple[Array, ...], along: tuple[Array, ...], visible: Visible | None, interpret: bool = False
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    """((dq, dk, dv), their tangents) of (q, k, v, lse, D, do) `at` with tangents `along`."""
    (_, n, h, e), (_, keys, g, _) = at[0].shape, at[1].shape
    head = padded_head(e)
    by_queries = Launch(keys, h // g, e**-0.5, visible is not None, block_of(head), 2, interpret)
    by_keys = KeyLaunch(h // g, e**-0.5, visible is not None, block_of(head), 2, interpret)
    rows = round_up(n, by_queries.block_q)
    flat = row_stats(at[3], at[4], rows)
    moved = row_stats(jnp.where(jnp.isneginf(at[3]), 0.0, along[3]) / LOG2E, along[4], rows)
    moved = jnp.where(jnp.isfinite(moved), moved, 0.0)
    stats = jnp.concatenate([flat, moved], axis=2)
    order = (*at[:3], at[5].astype(at[0].dtype), *along[:3], along[5].astype(at[0].dtype))
    given = [pad_to(x, round_up(x.shape[1], 8), head) for x in order]
    ranges: Tables = ()
    columns: Tables = ()
    if visible is not None:
        ranges, _ = tables_of(visible, keys, by_queries.block_q, by_queries.block_k)
        _, columns = tables_of(visible, keys, by_keys.block_q, 2 * ROWS)
    dq, dq2 = query_gradients(given, stats, ranges, by_queries)
    dk, dk2 = key_gradients(given, stats, columns, by_keys, values=False)
    dv, dv2 = key_gradients(given, stats, columns, by_keys, values=True)
    return (
        (dq[:, :n, :, :e], dk[:, :keys, :, :e], dv[:, :keys, :, :e]),
        (dq2[:, :n, :, :e], dk2[:, :keys, :, :e], dv2[:, :keys, :, :e]),
    )
