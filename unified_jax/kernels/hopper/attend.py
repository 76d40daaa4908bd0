r"""Attention over key ranges, forward, on Hopper: online softmax with two consumer warpgroups and one producer.

    for each example, head and block of B_q query rows (64 for each consumer):
        m = -inf, l = 0, acc = 0
        for each listed block of B_k keys, those that need no mask first:
            s     = q k^T                                    wgmma, both operands in shared memory
            s     = s where start <= key < stop else -inf    partial blocks only
            m'    = max(m, rowmax(s) c)                      c = log2(e) / sqrt(head size): all exponents are base 2
            alpha = 2^(m - m')
            p     = 2^(s c - m')
            l     = alpha l + rowsum(p)
            acc   = alpha acc + p v                          wgmma, p in registers
            m     = m'
        out = acc / l,   lse = (m + log2 l) / log2(e)        an empty key range: 0 and -inf

The producer keeps `stages` pairs of k and v blocks in flight by TMA. The consumers alternate ("pingpong"): one has the
matrix unit while the other computes its softmax; a barrier that both arrive at passes it back and forth.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from unified_jax.kernels.blocks import blocks_of, round_up
from unified_jax.kernels.hopper import compat
from unified_jax.kernels.hopper.compat import Ref
from unified_jax.kernels.hopper.ring import Lane, produce, slots

ROWS = 64
"""Query rows of one consumer: the height of a wgmma."""
LOG2E = math.log2(math.e)


@dataclass(frozen=True)
class Launch:
    """The static facts of one launch."""

    keys: int
    """Number of keys before padding."""
    repeats: int
    """Query heads per key/value head."""
    scale: float
    masked: bool
    block_k: int = 128
    stages: int = 2
    interpret: bool = False

    @property
    def block_q(self) -> int:
        """Query rows of one program."""
        return 2 * ROWS


@dataclass(frozen=True)
class Walk:
    """The key blocks of one query block: `full` without a mask, then up to `total` with one."""

    full: Array | int
    total: Array | int
    block: Callable[[Array], Array]


def walk_of(tables: tuple[Ref, ...], batch: Array, row: Array, launch: Launch) -> Walk:
    """Reads the table; without one, every block, of which a ragged last one is partial."""
    if not launch.masked:
        return Walk(launch.keys // launch.block_k, pl.cdiv(launch.keys, launch.block_k), lambda step: step)
    blocks, count, _ = tables
    return Walk(count[batch, row, 0], count[batch, row, 1], lambda step: blocks[batch, row, step])


def visible_part(s: Array, first: Array, runs: tuple[Array, ...] | None, launch: Launch) -> Array:
    """s with -inf where a row cannot attend to the key; `first` is the block's first key."""
    key = compat.positions(s.shape, 1) + first
    if runs is None:
        return jnp.where(key < launch.keys, s, -jnp.inf)
    start, stop = (compat.along_rows(x, s.shape) for x in runs)
    return jnp.where((key >= start) & (key < stop), s, -jnp.inf)


def softmax_step(s: Array, acc: Array, m: Array, l: Array, c: float, guard: bool) -> tuple[Array, Array, Array, Array]:
    """(p, acc, m, l) after one block; `guard` if a row may have had no key yet, so that m is -inf."""
    top = jnp.maximum(m, jnp.max(s, axis=1) * c)
    shift = jnp.where(top == -jnp.inf, 0.0, top) if guard else top
    alpha = jnp.exp2(m - shift)
    p = jnp.exp2(s * c - compat.along_rows(shift, s.shape))
    l = l * alpha + jnp.sum(p, axis=1)
    return p, acc * compat.along_rows(alpha, acc.shape), top, l


def consume(
    q_smem: Ref, buffers: tuple[Ref, ...], turn: Ref, walk: Walk, runs: tuple[Array, ...] | None, launch: Launch
) -> tuple[Array, Array, Array]:
    """A consumer's loop: (acc, m, l) of its 64 query rows. `turn` passes the matrix unit to the other consumer."""
    k_smem, v_smem, k_ready, v_ready, k_free, v_free = buffers

    def pass_turn() -> None:
        plgpu.barrier_arrive(turn)
        plgpu.barrier_wait(turn)

    def step_of(step: Array, carry: tuple[Array, Array, Array], *, masked: bool) -> tuple[Array, Array, Array]:
        acc, m, l = carry
        slot = lax.rem(step, jnp.int32(launch.stages))
        s = compat.product(q_smem, k_smem.at[slot].transpose((1, 0)), issued=pass_turn)
        plgpu.barrier_arrive(k_free.at[slot])
        if masked:
            s = visible_part(s, walk.block(step) * launch.block_k, runs, launch)
        p, acc, m, l = softmax_step(s, acc, m, l, launch.scale * LOG2E, guard=masked)
        p = p.astype(v_smem.dtype)
        # Without this the compiler moves the softmax past the barrier, into the other consumer's turn.
        acc, m, l, p = lax.optimization_barrier((acc, m, l, p))
        plgpu.barrier_arrive(turn)
        plgpu.barrier_wait(v_ready.at[slot])
        plgpu.barrier_wait(turn)

        def await_next() -> None:
            @pl.when(step + 1 < walk.total)
            def _() -> None:
                plgpu.barrier_wait(k_ready.at[lax.rem(step + 1, jnp.int32(launch.stages))])

        (acc,) = compat.add_products((acc, p, v_smem.at[slot]), interpret=launch.interpret, issued=await_next)
        plgpu.barrier_arrive(v_free.at[slot])
        return acc, m, l

    @pl.when(walk.total > 0)
    def _() -> None:
        plgpu.barrier_wait(k_ready.at[0])

    wg = lax.axis_index("wg")
    pl.when(wg == 1)(pass_turn)
    carry = compat.filled(q_smem.shape, 0.0), compat.filled((ROWS,), -jnp.inf), compat.filled((ROWS,), 0.0)
    carry = lax.fori_loop(0, walk.full, partial(step_of, masked=False), carry)
    carry = lax.fori_loop(walk.full, walk.total, partial(step_of, masked=True), carry)
    pl.when(wg == 0)(pass_turn)
    return carry


def forward_kernel(q_ref: Ref, k_ref: Ref, v_ref: Ref, *refs: Ref, launch: Launch) -> None:
    """One program: a block of query rows of one head of one example."""
    tables, (out_ref, lse_ref, q_smem, lse_smem, q_ready, turn), buffers = refs[:-12], refs[-12:-6], refs[-6:]
    head, batch, wg = lax.axis_index("head"), lax.axis_index("batch"), lax.axis_index("wg")
    # Under a causal mask the last blocks have the most keys: they go first, so that no long one is left to the end.
    row = pl.cdiv(q_ref.shape[1], launch.block_q) - 1 - lax.axis_index("row")
    walk = walk_of(tables, batch, row, launch)

    @pl.when(wg == 2)
    def _() -> None:
        group = lax.div(head, jnp.int32(launch.repeats))

        def keys(ref: Ref, step: Array) -> Ref:
            return ref.at[batch, pl.ds(walk.block(step) * launch.block_k, launch.block_k), group]

        k_smem, v_smem, k_ready, v_ready, k_free, v_free = buffers
        k_lane = Lane(((partial(keys, k_ref), slots(k_smem)),), k_ready, k_free)
        v_lane = Lane(((partial(keys, v_ref), slots(v_smem)),), v_ready, v_free)
        produce((k_lane, v_lane), walk.total, launch.stages)

    @pl.when(wg < 2)
    def _() -> None:
        plgpu.set_max_registers(240, action="increase")
        mine, mine_lse = q_smem.at[wg], lse_smem.at[wg]
        rows = pl.ds(row * launch.block_q + wg * ROWS, ROWS)
        plgpu.copy_gmem_to_smem(q_ref.at[batch, rows, head], mine, q_ready.at[wg])
        runs = tuple(compat.load_rows(tables[2].at[batch, i, rows]) for i in (0, 1)) if tables else None
        plgpu.barrier_wait(q_ready.at[wg])
        acc, m, l = consume(mine, buffers, turn, walk, runs, launch)
        mine_lse[...] = (m + jnp.log(l) * LOG2E) / LOG2E
        share = 1.0 / jnp.where(l == 0.0, 1.0, l)
        mine[...] = (acc * compat.along_rows(share, acc.shape)).astype(out_ref.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(mine, out_ref.at[batch, rows, head])
        plgpu.copy_smem_to_gmem(mine_lse, lse_ref.at[batch, head, rows])
        plgpu.wait_smem_to_gmem(0)


Tables = tuple[Array, ...]
"""Nothing without key ranges; else the blocks of each list, their counts, and the key ranges."""


def tables_of(visible: Int[Array, "b n 2"], keys: int, block_q: int, block_k: int) -> tuple[Tables, Tables]:
    """Key blocks for each query block, and query blocks for each key block."""
    lists = blocks_of(visible, keys, block_q, block_k)
    return (*lists.keys, lists.runs), (*lists.queries, lists.runs)


def pad_to(x: Array, rows: int, head: int) -> Array:
    """x with zeros up to `rows` tokens and `head` features: what TMA tiles of 8 rows and a wgmma need."""
    return jnp.pad(x, ((0, 0), (0, rows - x.shape[1]), (0, 0), (0, head - x.shape[3])))


def padded_head(e: int) -> int:
    """The head size in shared memory: a multiple of 64 unchanged, else padded to tiles of 64 bytes."""
    if e > 128:
        raise ValueError(f"the Hopper kernels take heads of up to 128 features, not {e}: shared memory holds no more")
    return round_up(e, 32)


def forward(
    q: Float[Array, "b n h e"],
    k: Float[Array, "b m g e"],
    v: Float[Array, "b m g e"],
    visible: Int[Array, "b n 2"] | None,
    *,
    interpret: bool = False,
    block_k: int = 128,
    stages: int = 2,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n h"]]:
    """(out, lse) by the kernel above, without a gradient."""
    (b, n, h, e), (_, keys, g, _) = q.shape, k.shape
    launch = Launch(keys, h // g, e**-0.5, visible is not None, block_k, stages, interpret)
    tables: tuple[Array, ...] = () if visible is None else tables_of(visible, keys, launch.block_q, block_k)[0]
    head, rows = padded_head(e), round_up(n, launch.block_q)
    q, k, v = (pad_to(x, round_up(x.shape[1], 8), head) for x in (q, k, v))
    ring = compat.tiled((stages, block_k, head), v.dtype)
    out, lse = compat.launch(
        partial(forward_kernel, launch=launch),
        out=[jax.ShapeDtypeStruct(q.shape, v.dtype), jax.ShapeDtypeStruct((b, h, rows), jnp.float32)],
        scratch=[
            compat.tiled((2, ROWS, head), q.dtype),
            plgpu.SMEM((2, ROWS), jnp.float32),
            plgpu.Barrier(num_barriers=2),
            plgpu.Barrier(num_arrivals=2),
            ring,
            ring,
            *[plgpu.Barrier(num_barriers=stages)] * 2,
            *[plgpu.Barrier(num_arrivals=2, num_barriers=stages)] * 2,
        ],
        # The last axis runs fastest: programs that run at the same time share their keys and values.
        grid=(b, h, rows // launch.block_q),
        axes=("batch", "head", "row"),
        warpgroups=3,
        interpret=interpret,
    )(q, k, v, *tables)
    return out[:, :n, :, :e], jnp.swapaxes(lse[..., :n], 1, 2)
