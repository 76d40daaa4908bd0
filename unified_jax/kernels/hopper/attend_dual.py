r"""Attention over key ranges and its tangent on Hopper, in one pass: the formulas of `tpu.attend_dual`.

    for each example, head and block of B_q query rows (64 for each consumer):
        for each listed block of B_k keys, those that need no mask first:
            s = q k^T,  s. = q. k^T + q k.^T        wgmma, operands in shared memory
            p, alpha as in `hopper.attend`
            r = alpha r + rowsum(p s.)
            acc = alpha acc + p v,  u = alpha u + (p s.) v + p v.       wgmma, left operands in registers
        out = acc / l,  lse. = scale r / l,  out. = scale u / l - out lse.    (v. counts without the scale)

Two accumulators of a head's size leave room for blocks of 64 keys, or of 32 above 64 features.
"""

from functools import partial
from typing import Any, NamedTuple

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
    Walk,
    pad_to,
    padded_head,
    tables_of,
    visible_part,
    walk_of,
)
from unified_jax.kernels.hopper.compat import Ref
from unified_jax.kernels.hopper.ring import Lane, produce, slots
from unified_jax.kernels.inputs import Visible


def block_of(head: int) -> int:
    """Keys (or, for their gradient, queries) of a block: what registers allow beside two accumulators."""
    return 64 if head <= 64 else 32


def tiled(shape: tuple[int, ...], dtype: jnp.dtype) -> Any:
    """Shared memory for blocks of `block_of` rows: tiles of 64 bytes where they have 32."""
    return compat.tiled(shape, dtype, 2 * block_of(shape[-1]))


class Ring(NamedTuple):
    """The producer's copies for each step."""

    k: Ref
    v: Ref
    k2: Ref
    v2: Ref
    ready: Ref
    free: Ref


class Sums(NamedTuple):
    """A consumer's sums for its 64 query rows."""

    acc: Array
    u: Array
    m: Array
    l: Array
    r: Array


def consume(mine: tuple[Ref, Ref], ring: Ring, walk: Walk, runs: tuple[Array, ...] | None, launch: Launch) -> Sums:
    """A consumer's loop over the keys."""
    q, q2 = mine

    def step_of(step: Array, at: Sums, *, masked: bool) -> Sums:
        slot = lax.rem(step, jnp.int32(launch.stages))
        k, v, k2, v2 = (ref.at[slot] for ref in ring[:4])
        plgpu.barrier_wait(ring.ready.at[slot])
        s = compat.product(q, k.transpose((1, 0)))
        s2 = compat.sum_of_products((q2, k.transpose((1, 0))), (q, k2.transpose((1, 0)))) * launch.scale
        if masked:
            s = visible_part(s, walk.block(step) * launch.block_k, runs, launch)
        c = launch.scale * LOG2E
        top = jnp.maximum(at.m, jnp.max(s, axis=1) * c)
        shift = jnp.where(top == -jnp.inf, 0.0, top) if masked else top
        alpha = jnp.exp2(at.m - shift)
        p = jnp.exp2(s * c - compat.along_rows(shift, s.shape))
        p2 = p * s2
        l, r = at.l * alpha + jnp.sum(p, axis=1), at.r * alpha + jnp.sum(p2, axis=1)
        fade = compat.along_rows(alpha, at.acc.shape)
        p, p2 = p.astype(v.dtype), p2.astype(v.dtype)
        acc, u = compat.add_products((at.acc * fade, p, v), (at.u * fade, p2, v), interpret=launch.interpret)
        (u,) = compat.add_products((u, p, v2), interpret=launch.interpret)
        plgpu.barrier_arrive(ring.free.at[slot])
        return Sums(acc, u, top, l, r)

    zero = [compat.filled((ROWS,), 0.0) for _ in range(2)]
    start = [compat.filled(q.shape, 0.0) for _ in range(2)]
    sums = Sums(start[0], start[1], compat.filled((ROWS,), -jnp.inf), zero[0], zero[1])
    sums = lax.fori_loop(0, walk.full, partial(step_of, masked=False), sums)
    return lax.fori_loop(walk.full, walk.total, partial(step_of, masked=True), sums)


def dual_kernel(*refs: Ref, launch: Launch) -> None:
    """One program: a block of query rows of one head of one example."""
    (q_ref, k_ref, v_ref, q2_ref, k2_ref, v2_ref), refs = refs[:6], refs[6:]
    tables, outs, (q_smem, q2_smem, row_smem, mine_ready) = refs[:-14], refs[-14:-10], refs[-10:-6]
    ring = Ring(*refs[-6:])
    head, batch, wg = lax.axis_index("head"), lax.axis_index("batch"), lax.axis_index("wg")
    row = pl.cdiv(q_ref.shape[1], launch.block_q) - 1 - lax.axis_index("row")
    walk = walk_of(tables, batch, row, launch)

    @pl.when(wg == 2)
    def _() -> None:
        group = lax.div(head, jnp.int32(launch.repeats))

        def keys(ref: Ref, step: Array) -> Ref:
            return ref.at[batch, pl.ds(walk.block(step) * launch.block_k, launch.block_k), group]

        pairs = zip((k_ref, v_ref, k2_ref, v2_ref), ring[:4], strict=True)
        copies = tuple((partial(keys, source), slots(target)) for source, target in pairs)
        produce((Lane(copies, ring.ready, ring.free),), walk.total, launch.stages)

    @pl.when(wg < 2)
    def _() -> None:
        plgpu.set_max_registers(240, action="increase")
        rows = pl.ds(row * launch.block_q + wg * ROWS, ROWS)
        mine = q_smem.at[wg], q2_smem.at[wg]
        for source, target in zip((q_ref, q2_ref), mine, strict=True):
            plgpu.copy_gmem_to_smem(source.at[batch, rows, head], target, mine_ready.at[wg])
        runs = tuple(compat.load_rows(tables[2].at[batch, i, rows]) for i in (0, 1)) if tables else None
        plgpu.barrier_wait(mine_ready.at[wg])
        at = consume(mine, ring, walk, runs, launch)
        share = 1.0 / jnp.where(at.l == 0.0, 1.0, at.l)
        mean = at.r * share
        value = at.acc * compat.along_rows(share, at.acc.shape)
        moved = at.u * compat.along_rows(share, at.u.shape) - value * compat.along_rows(mean, at.u.shape)
        row_smem.at[wg, 0][...] = (at.m + jnp.log(at.l) * LOG2E) / LOG2E
        row_smem.at[wg, 1][...] = mean
        mine[0][...], mine[1][...] = value.astype(outs[0].dtype), moved.astype(outs[0].dtype)
        plgpu.commit_smem()
        for i in (0, 1):
            plgpu.copy_smem_to_gmem(mine[i], outs[2 * i].at[batch, rows, head])
            plgpu.copy_smem_to_gmem(row_smem.at[wg, i], outs[2 * i + 1].at[batch, head, rows])
        plgpu.wait_smem_to_gmem(0)


def forward(
    at: tuple[Array, Array, Array], along: tuple[Array, Array, Array], visible: Visible | None, interpret: bool = False
) -> tuple[Array, Array, Array, Array]:
    """(out, log-sum-exp, their tangents) of q, k, v `at` with tangents `along`."""
    (b, n, h, e), (_, keys, g, _) = at[0].shape, at[1].shape
    head = padded_head(e)
    launch = Launch(keys, h // g, e**-0.5, visible is not None, block_of(head), 2, interpret)
    tables: tuple[Array, ...] = () if visible is None else tables_of(visible, keys, launch.block_q, launch.block_k)[0]
    rows = round_up(n, launch.block_q)
    given = [pad_to(x, round_up(x.shape[1], 8), head) for x in (*at, *along)]
    q, v = given[0], given[2]
    own, ring = (tiled(shape, q.dtype) for shape in ((2, ROWS, head), (launch.stages, launch.block_k, head)))
    outs = [jax.ShapeDtypeStruct(q.shape, v.dtype), jax.ShapeDtypeStruct((b, h, rows), jnp.float32)]
    out, lse, out2, lse2 = compat.launch(
        partial(dual_kernel, launch=launch),
        out=outs * 2,
        scratch=[
            own,
            own,
            plgpu.SMEM((2, 2, ROWS), jnp.float32),
            plgpu.Barrier(num_arrivals=2, num_barriers=2),
            *[ring] * 4,
            plgpu.Barrier(num_arrivals=4, num_barriers=launch.stages),
            plgpu.Barrier(num_arrivals=2, num_barriers=launch.stages),
        ],
        grid=(b, h, rows // launch.block_q),
        axes=("batch", "head", "row"),
        warpgroups=3,
        interpret=interpret,
    )(*given, *tables)
    lse, lse2 = (jnp.swapaxes(x[..., :n], 1, 2) for x in (lse, lse2))
    return out[:, :n, :, :e], lse, out2[:, :n, :, :e], lse2
