r"""Gradient of attention over key ranges with respect to the queries, on Hopper.

    for each example, head and block of B_q query rows (64 for each consumer), with lse from the forward pass and
    delta = rowsum(do out) - dlse:
        dq = 0
        for each listed block of B_k keys, those that need no mask first:
            s  = q k^T,  dp = do v^T                wgmma, one after the other without a wait between
            p  = 2^(s c - lse log2(e))              0 where the row cannot attend to the key; c = log2(e) scale
            ds = p (dp - delta)
            dq = dq + ds k                          wgmma, ds in registers
        dq = scale dq

The lse of an empty key range comes in as +inf, so that p = 0 there.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from unified_jax.kernels.hopper import compat
from unified_jax.kernels.hopper.attend import LOG2E, ROWS, Launch, Tables, Walk, visible_part, walk_of
from unified_jax.kernels.hopper.compat import Ref
from unified_jax.kernels.hopper.ring import Lane, produce, slots


def consume(
    mine: tuple[Ref, Ref],
    ring: tuple[Ref, ...],
    stats: tuple[Array, Array],
    walk: Walk,
    runs: tuple[Array, ...] | None,
    launch: Launch,
) -> Array:
    """A consumer's loop: dq of its 64 query rows, before the scale."""
    (q_smem, do_smem), (k_smem, v_smem, ready, free), (lse, delta) = mine, ring, stats

    def step_of(step: Array, dq: Array, *, masked: bool) -> Array:
        slot = lax.rem(step, jnp.int32(launch.stages))
        keys, values = k_smem.at[slot], v_smem.at[slot]

        def weights(s: Array) -> Array:
            if masked:
                s = visible_part(s, walk.block(step) * launch.block_k, runs, launch)
            return jnp.exp2(s * (launch.scale * LOG2E) - compat.along_rows(lse, s.shape))

        plgpu.barrier_wait(ready.at[slot])
        transposed = keys.transpose((1, 0)), values.transpose((1, 0))
        p, dp = compat.products((q_smem, transposed[0]), (do_smem, transposed[1]), weights)
        ds = (p * (dp - compat.along_rows(delta, p.shape))).astype(q_smem.dtype)
        (dq,) = compat.add_products((dq, ds, keys), interpret=launch.interpret)
        plgpu.barrier_arrive(free.at[slot])
        return dq

    dq = compat.filled(q_smem.shape, 0.0)
    dq = lax.fori_loop(0, walk.full, partial(step_of, masked=False), dq)
    return lax.fori_loop(walk.full, walk.total, partial(step_of, masked=True), dq)


def dq_kernel(q_ref: Ref, k_ref: Ref, v_ref: Ref, do_ref: Ref, stats_ref: Ref, *refs: Ref, launch: Launch) -> None:
    """One program: a block of query rows of one head of one example."""
    tables, (dq_ref, q_smem, do_smem, mine_ready), ring = refs[:-8], refs[-8:-4], refs[-4:]
    head, batch, wg = lax.axis_index("head"), lax.axis_index("batch"), lax.axis_index("wg")
    row = pl.cdiv(q_ref.shape[1], launch.block_q) - 1 - lax.axis_index("row")
    walk = walk_of(tables, batch, row, launch)

    @pl.when(wg == 2)
    def _() -> None:
        group = lax.div(head, jnp.int32(launch.repeats))

        def keys(ref: Ref, step: Array) -> Ref:
            return ref.at[batch, pl.ds(walk.block(step) * launch.block_k, launch.block_k), group]

        k_smem, v_smem, ready, free = ring
        copies = (partial(keys, k_ref), slots(k_smem)), (partial(keys, v_ref), slots(v_smem))
        produce((Lane(copies, ready, free),), walk.total, launch.stages)

    @pl.when(wg < 2)
    def _() -> None:
        plgpu.set_max_registers(240, action="increase")
        rows = pl.ds(row * launch.block_q + wg * ROWS, ROWS)
        plgpu.copy_gmem_to_smem(q_ref.at[batch, rows, head], q_smem.at[wg], mine_ready.at[wg])
        plgpu.copy_gmem_to_smem(do_ref.at[batch, rows, head], do_smem.at[wg], mine_ready.at[wg])
        lse, delta = (compat.load_rows(stats_ref.at[batch, head, i, rows]) for i in (0, 1))
        runs = tuple(compat.load_rows(tables[2].at[batch, i, rows]) for i in (0, 1)) if tables else None
        plgpu.barrier_wait(mine_ready.at[wg])
        dq = consume((q_smem.at[wg], do_smem.at[wg]), ring, (lse, delta), walk, runs, launch)
        q_smem.at[wg][...] = (dq * launch.scale).astype(dq_ref.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_smem.at[wg], dq_ref.at[batch, rows, head])
        plgpu.wait_smem_to_gmem(0)


def query_gradient(q: Array, k: Array, v: Array, do: Array, stats: Array, tables: Tables, launch: Launch) -> Array:
    """dq of padded arrays; `stats[b, h]` are (lse log2(e), delta), in float32, for full blocks of rows."""
    (b, n, h, head), dtype = q.shape, q.dtype
    mine, ring = (compat.tiled(shape, dtype) for shape in ((2, ROWS, head), (launch.stages, launch.block_k, head)))
    (dq,) = compat.launch(
        partial(dq_kernel, launch=launch),
        out=[jax.ShapeDtypeStruct(q.shape, dtype)],
        scratch=[
            mine,
            mine,
            plgpu.Barrier(num_arrivals=2, num_barriers=2),
            ring,
            ring,
            *[plgpu.Barrier(num_arrivals=2, num_barriers=launch.stages)] * 2,
        ],
        grid=(b, h, pl.cdiv(n, launch.block_q)),
        axes=("batch", "head", "row"),
        warpgroups=3,
        interpret=launch.interpret,
    )(q, k, v, do, stats, *tables)
    return dq
