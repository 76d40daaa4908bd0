r"""Gradients of attention over key ranges with respect to keys and values, on Hopper.

    for each example, key head and block of B_k keys (64 for each consumer):
        dk = dv = 0
        for each query head of the group and each listed block of B_q query rows, those that need no mask first:
            s^T  = k q^T,  dp^T = v do^T            wgmma, one after the other without a wait between
            p^T  = 2^(s^T c - lse log2(e))          0 where the query cannot attend to the key; c = log2(e) scale
            ds^T = p^T (dp^T - delta)
            dv   = dv + p^T do,  dk = dk + ds^T q   wgmma, p^T and ds^T in registers
        dk = scale dk

Everything is transposed, so that the left operands of the last two products are already in registers. Query rows past
the end, like those of empty key ranges, come in with lse = +inf, so that p = 0; keys past the end are never stored.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from unified_jax.kernels.hopper import compat
from unified_jax.kernels.hopper.attend import LOG2E, ROWS, Tables
from unified_jax.kernels.hopper.compat import Ref
from unified_jax.kernels.hopper.ring import Lane, produce, slots


@dataclass(frozen=True)
class KeyLaunch:
    """The static facts of one launch; a program has 2 * ROWS keys."""

    repeats: int
    scale: float
    masked: bool
    block_q: int = 64
    stages: int = 3
    interpret: bool = False


class Ring(NamedTuple):
    """The producer's copies for each step; `runs` only with masks."""

    ready: Ref
    free: Ref
    q: Ref
    do: Ref
    stats: Ref
    runs: tuple[Ref, ...]


@dataclass(frozen=True)
class KeyWalk:
    """The query blocks of one key block, for each head of the group: `full` of them without a mask, `total` in all."""

    full: Array
    total: Array
    listed: Ref | None
    where: tuple[Array, Array]
    repeats: int

    def at(self, step: Array) -> tuple[Array, Array]:
        """(head within the group, query block) of a step: the full blocks of every head, then the partial ones."""
        part = step >= self.full * self.repeats
        count = jnp.where(part, self.total - self.full, self.full)
        inner = jnp.where(part, step - self.full * self.repeats, step)
        head, index = lax.div(inner, count), lax.rem(inner, count)
        index = jnp.where(part, self.full + index, index)
        return head, index if self.listed is None else self.listed[*self.where, index]


def walk_of(tables: tuple[Ref, ...], where: tuple[Array, Array], queries: int, launch: KeyLaunch) -> KeyWalk:
    """Reads the transposed table; without one, every query block, none of which needs a mask."""
    if not tables:
        every = jnp.int32(pl.cdiv(queries, launch.block_q))
        return KeyWalk(every, every, None, where, launch.repeats)
    blocks, count, _ = tables
    return KeyWalk(count[*where, 0], count[*where, 1], blocks, where, launch.repeats)


def visible_part(s: Array, first: Array, runs: Ref) -> Array:
    """s^T with -inf where a query (column) cannot attend to the key (row); `first` is the first key.

    One vector at a time: a vector along columns takes half as many registers as s itself.
    """
    key = compat.positions(s.shape, 0) + first
    s = jnp.where(key >= compat.along_columns(compat.load_columns(runs.at[0]), s.shape), s, -jnp.inf)
    return jnp.where(key < compat.along_columns(compat.load_columns(runs.at[1]), s.shape), s, -jnp.inf)


def consume(mine: tuple[Ref, Ref], ring: Ring, first: Array, walk: KeyWalk, launch: KeyLaunch) -> tuple[Array, Array]:
    """A consumer's loop: (dk, dv) of its 64 keys, dk before the scale."""
    k_smem, v_smem = mine
    dtype = k_smem.dtype

    def step_of(step: Array, carry: tuple[Array, Array], *, masked: bool) -> tuple[Array, Array]:
        dk, dv = carry
        slot = lax.rem(step, jnp.int32(launch.stages))
        queries, cotangents, stats = ring.q.at[slot], ring.do.at[slot], ring.stats.at[slot]
        plgpu.barrier_wait(ring.ready.at[slot])

        def weights(s: Array) -> Array:
            if masked:
                s = visible_part(s, first, ring.runs[0].at[slot])
            lse = compat.along_columns(compat.load_columns(stats.at[0]), s.shape)
            return jnp.exp2(s * (launch.scale * LOG2E) - lse)

        transposed = queries.transpose((1, 0)), cotangents.transpose((1, 0))
        p, dp = compat.products((k_smem, transposed[0]), (v_smem, transposed[1]), weights)
        ds = p * (dp - compat.along_columns(compat.load_columns(stats.at[1]), p.shape))
        dv, dk = compat.add_products(
            (dv, p.astype(dtype), cotangents), (dk, ds.astype(dtype), queries), interpret=launch.interpret
        )
        plgpu.barrier_arrive(ring.free.at[slot])
        return dk, dv

    carry = compat.filled(k_smem.shape, 0.0), compat.filled(k_smem.shape, 0.0)
    full, total = walk.full * launch.repeats, walk.total * launch.repeats
    carry = lax.fori_loop(0, full, partial(step_of, masked=False), carry)
    if not ring.runs:
        return carry
    return lax.fori_loop(full, total, partial(step_of, masked=True), carry)


def dkv_kernel(q_ref: Ref, k_ref: Ref, v_ref: Ref, do_ref: Ref, stats_ref: Ref, *refs: Ref, launch: KeyLaunch) -> None:
    """One program: a block of keys of one key head of one example."""
    here = 3 * launch.masked
    tables, refs = refs[:here], refs[here:]
    dk_ref, dv_ref, k_smem, v_smem, mine_ready, ready, free, *stages = refs
    ring = Ring(ready, free, stages[0], stages[1], stages[2], tuple(stages[3:]))
    group, batch, wg = lax.axis_index("group"), lax.axis_index("batch"), lax.axis_index("wg")
    column = lax.axis_index("column")
    walk = walk_of(tables, (batch, column), q_ref.shape[1], launch)

    @pl.when(wg == 2)
    def _() -> None:
        def where(step: Array) -> tuple[Array, Any]:
            head, block = walk.at(step)
            return group * launch.repeats + head, pl.ds(block * launch.block_q, launch.block_q)

        def queries(ref: Ref, step: Array) -> Ref:
            head, rows = where(step)
            return ref.at[batch, rows, head]

        def stats(step: Array) -> Ref:
            head, rows = where(step)
            return stats_ref.at[batch, head, :, rows]

        def runs(step: Array) -> Ref:
            return tables[2].at[batch, :, where(step)[1]]

        sources = partial(queries, q_ref), partial(queries, do_ref), stats, *([runs] if tables else [])
        targets = map(slots, (ring.q, ring.do, ring.stats, *ring.runs))
        lane = Lane(tuple(zip(sources, targets, strict=True)), ready, free)
        produce((lane,), walk.total * launch.repeats, launch.stages)

    @pl.when(wg < 2)
    def _() -> None:
        plgpu.set_max_registers(240, action="increase")
        first = column * (2 * ROWS) + wg * ROWS
        keys = pl.ds(first, ROWS)
        plgpu.copy_gmem_to_smem(k_ref.at[batch, keys, group], k_smem.at[wg], mine_ready.at[wg])
        plgpu.copy_gmem_to_smem(v_ref.at[batch, keys, group], v_smem.at[wg], mine_ready.at[wg])
        plgpu.barrier_wait(mine_ready.at[wg])
        mine = k_smem.at[wg], v_smem.at[wg]
        dk, dv = consume(mine, ring, first, walk, launch)
        mine[0][...] = (dk * launch.scale).astype(dk_ref.dtype)
        mine[1][...] = dv.astype(dv_ref.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(mine[0], dk_ref.at[batch, keys, group])
        plgpu.copy_smem_to_gmem(mine[1], dv_ref.at[batch, keys, group])
        plgpu.wait_smem_to_gmem(0)


def key_gradients(
    q: Array, k: Array, v: Array, do: Array, stats: Array, tables: Tables, launch: KeyLaunch
) -> tuple[Array, Array]:
    """(dk, dv) of padded arrays; `stats[b, h]` are (lse log2(e), delta), in float32, for full blocks of rows."""
    (b, m, g, head), dtype, stages = k.shape, k.dtype, launch.stages
    mine, ring = (compat.tiled(shape, dtype) for shape in ((2, ROWS, head), (stages, launch.block_q, head)))
    dk, dv = compat.launch(
        partial(dkv_kernel, launch=launch),
        out=[jax.ShapeDtypeStruct(k.shape, dtype), jax.ShapeDtypeStruct(v.shape, dtype)],
        scratch=[
            mine,
            mine,
            plgpu.Barrier(num_arrivals=2, num_barriers=2),
            plgpu.Barrier(num_arrivals=3 + launch.masked, num_barriers=stages),
            plgpu.Barrier(num_arrivals=2, num_barriers=stages),
            ring,
            ring,
            plgpu.SMEM((stages, 2, launch.block_q), jnp.float32),
            *[plgpu.SMEM((stages, 2, launch.block_q), jnp.int32)] * launch.masked,
        ],
        grid=(b, g, pl.cdiv(m, 2 * ROWS)),
        axes=("batch", "group", "column"),
        warpgroups=3,
        interpret=launch.interpret,
    )(q, k, v, do, stats, *tables)
    return dk, dv
