r"""The tangent of attention's gradient on Hopper, for keys or for values: see `hopper.attend_dual_grad`.

    for each example, key head and block of keys (64 for each consumer), transposed as in `hopper.attend_dkv`:
        keys      dk = scale sum ds^T q,   dk. = scale sum (ds.^T q + ds^T q.)
        values    dv = sum p^T do,         dv. = sum (p.^T do + p^T do.)

Two launches: four accumulators of 64 x 128 do not fit the registers of a warpgroup.
"""

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
from unified_jax.kernels.hopper.attend_dkv import KeyLaunch, KeyWalk, visible_part, walk_of
from unified_jax.kernels.hopper.attend_dual import tiled
from unified_jax.kernels.hopper.compat import Ref
from unified_jax.kernels.hopper.ring import Lane, produce, slots


class Own(NamedTuple):
    """A consumer's 64 keys, values and tangents."""

    k: Ref
    v: Ref
    k2: Ref
    v2: Ref


class Ring(NamedTuple):
    """The producer's copies for each step; `runs` only with masks."""

    q: Ref
    do: Ref
    q2: Ref
    do2: Ref
    stats: Ref
    runs: tuple[Ref, ...]
    ready: Ref
    free: Ref


def consume(mine: Own, ring: Ring, first: Array, walk: KeyWalk, launch: KeyLaunch, values: bool) -> tuple[Array, Array]:
    """A consumer's loop over the queries: the sum for its 64 keys and that of tangents, before the scale."""

    def step_of(step: Array, sums: tuple[Array, Array], *, masked: bool) -> tuple[Array, Array]:
        total, total2 = sums
        slot = lax.rem(step, jnp.int32(launch.stages))
        q, do, q2, do2, stats = (ref.at[slot] for ref in ring[:5])
        qt, dot, qt2, dot2 = (ref.transpose((1, 0)) for ref in (q, do, q2, do2))
        plgpu.barrier_wait(ring.ready.at[slot])

        def column(i: int) -> Array:
            return compat.along_columns(compat.load_columns(stats.at[i]), (ROWS, launch.block_q))

        s = compat.product(mine.k, qt)
        if masked:
            s = visible_part(s, first, ring.runs[0].at[slot])
        w = jnp.exp2(s * (launch.scale * LOG2E) - column(0))
        w2 = w * (compat.sum_of_products((mine.k2, qt), (mine.k, qt2)) * launch.scale - column(2))
        if not values:
            g = compat.product(mine.v, dot) - column(1)
            g2 = compat.sum_of_products((mine.v2, dot), (mine.v, dot2)) - column(3)
            w, w2 = w * g, w2 * g + w * g2
        right, right2 = (do, do2) if values else (q, q2)
        w, w2 = w.astype(q.dtype), w2.astype(q.dtype)
        total, total2 = compat.add_products((total, w, right), (total2, w2, right), interpret=launch.interpret)
        (total2,) = compat.add_products((total2, w, right2), interpret=launch.interpret)
        plgpu.barrier_arrive(ring.free.at[slot])
        return total, total2

    sums = compat.filled(mine.k.shape, 0.0), compat.filled(mine.k.shape, 0.0)
    full, total = walk.full * launch.repeats, walk.total * launch.repeats
    sums = lax.fori_loop(0, full, partial(step_of, masked=False), sums)
    return sums if not ring.runs else lax.fori_loop(full, total, partial(step_of, masked=True), sums)


def key_kernel(*refs: Ref, launch: KeyLaunch, values: bool) -> None:
    """One program: a block of keys of one key head of one example."""
    (q, k, v, do, q2, k2, v2, do2, stats), refs = refs[:9], refs[9:]
    tables, refs = refs[: 3 * launch.masked], refs[3 * launch.masked :]
    outs, own, (mine_ready, ready, free), stages = refs[:2], Own(*refs[2:6]), refs[6:9], refs[9:]
    ring = Ring._make((*stages[:5], tuple(stages[5:]), ready, free))
    group, batch, wg = lax.axis_index("group"), lax.axis_index("batch"), lax.axis_index("wg")
    column = lax.axis_index("column")
    walk = walk_of(tables, (batch, column), q.shape[1], launch)

    @pl.when(wg == 2)
    def _() -> None:
        def where(step: Array) -> tuple[Array, Any]:
            head, block = walk.at(step)
            return group * launch.repeats + head, pl.ds(block * launch.block_q, launch.block_q)

        def queries(ref: Ref, step: Array) -> Ref:
            head, rows = where(step)
            return ref.at[batch, rows, head]

        def of_rows(step: Array) -> Ref:
            head, rows = where(step)
            return stats.at[batch, head, :, rows]

        def runs(step: Array) -> Ref:
            return tables[2].at[batch, :, where(step)[1]]

        sources = *(partial(queries, x) for x in (q, do, q2, do2)), of_rows, *([runs] if tables else [])
        copies = tuple(zip(sources, map(slots, (*ring[:5], *ring.runs)), strict=True))
        produce((Lane(copies, ready, free),), walk.total * launch.repeats, launch.stages)

    @pl.when(wg < 2)
    def _() -> None:
        plgpu.set_max_registers(240, action="increase")
        first = column * (2 * ROWS) + wg * ROWS
        keys = pl.ds(first, ROWS)
        mine = Own(*(ref.at[wg] for ref in own))
        for source, target in zip((k, v, k2, v2), mine, strict=True):
            plgpu.copy_gmem_to_smem(source.at[batch, keys, group], target, mine_ready.at[wg])
        plgpu.barrier_wait(mine_ready.at[wg])
        found = consume(mine, ring, first, walk, launch, values)
        for i, target in enumerate((mine.k, mine.k2)):
            target[...] = (found[i] * (1.0 if values else launch.scale)).astype(target.dtype)
        plgpu.commit_smem()
        for i, source in enumerate((mine.k, mine.k2)):
            plgpu.copy_smem_to_gmem(source, outs[i].at[batch, keys, group])
        plgpu.wait_smem_to_gmem(0)


def key_gradients(
    given: list[Array], stats: Array, tables: Tables, launch: KeyLaunch, values: bool
) -> tuple[Array, Array]:
    """(dk, dk.), or (dv, dv.), of padded (q, k, v, do) and their tangents; `stats` for full blocks of rows."""
    (b, m, g, head), dtype, stages = given[1].shape, given[1].dtype, launch.stages
    own, ring = (tiled(shape, dtype) for shape in ((2, ROWS, head), (stages, launch.block_q, head)))
    found, found2 = compat.launch(
        partial(key_kernel, launch=launch, values=values),
        out=[jax.ShapeDtypeStruct(given[1].shape, dtype)] * 2,
        scratch=[
            *[own] * 4,
            plgpu.Barrier(num_arrivals=4, num_barriers=2),
            plgpu.Barrier(num_arrivals=5 + launch.masked, num_barriers=stages),
            plgpu.Barrier(num_arrivals=2, num_barriers=stages),
            *[ring] * 4,
            plgpu.SMEM((stages, 4, launch.block_q), jnp.float32),
            *[plgpu.SMEM((stages, 2, launch.block_q), jnp.int32)] * launch.masked,
        ],
        grid=(b, g, pl.cdiv(m, 2 * ROWS)),
        axes=("batch", "group", "column"),
        warpgroups=3,
        interpret=launch.interpret,
    )(*given, stats, *tables)
    return found, found2
