r"""The gradient of attention over key ranges for TPU: two kernels that recompute P from the log-sum-exp.

With dO and dL the cotangents of out and lse, D = sum_e(dO out) - dL per query, and keys down, queries across,

    P = exp(K Q^T / sqrt(e) - lse)             0 where a query cannot attend to a key
    dS = P (V dO^T - D)

    dQ = dS^T K / sqrt(e)                      summed over the key blocks that a query block needs
    dV = P dO,   dK = dS Q / sqrt(e)           summed over the query blocks that a key block needs, of all the query
                                               heads that a key head serves
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from unified_jax.kernels.blocks import Lists
from unified_jax.kernels.inputs import Visible
from unified_jax.kernels.tpu.attend import (
    block_size,
    heads_first,
    lay,
    product,
    sees,
    tokens_first,
)
from unified_jax.kernels.tpu.passes import call, cost, in_list, over_keys, over_queries


def backward(
    q: Float[Array, "b n h e"],
    k: Float[Array, "b m g e"],
    v: Float[Array, "b m g e"],
    visible: Visible | None,
    lse: Float[Array, "b n h"],
    d: Float[Array, "b n h"],
    do: Float[Array, "b n h e"],
    interpret: Any = False,
) -> tuple[Array, Array, Array]:
    """(dq, dk, dv); `d` is D above. The log-sum-exp of an empty key range is -inf; its queries have zero gradients."""
    laid = lay(q, k, v, visible)
    filled = ((0, 0), (0, 0), (0, laid.q.shape[2] - q.shape[1]))
    lse = jnp.pad(jnp.swapaxes(jnp.where(jnp.isneginf(lse), 0.0, lse), 1, 2), filled)[:, :, None]
    d = jnp.pad(jnp.swapaxes(d, 1, 2), filled)[:, :, None]
    do = heads_first(do.astype(q.dtype), block_size(q.shape[1]))
    given = (laid.q, laid.k, laid.v, laid.blocks.runs, lse, d, do)
    dq = _queries(given, laid.blocks.keys, interpret)
    dk, dv = _keys(given, laid.blocks.queries, interpret)
    return tokens_first(dq, q.shape[1]), tokens_first(dk, k.shape[1]), tokens_first(dv, k.shape[1])


def _p_and_ds(
    q: Any, k: Any, v: Any, runs: Any, lse: Any, d: Any, do: Any, first: Any, masked: bool
) -> tuple[Array, Array]:
    s = product(k[...], q[...], (1, 1)) * q.shape[-1] ** -0.5
    p = jnp.exp(s - lse[...])
    if masked:
        p = jnp.where(sees(runs, first, s.shape), p, 0.0)
    return p, p * (product(v[...], do[...], (1, 1)) - d[...])


def _queries(given: tuple[Array, ...], keys: Lists, interpret: Any) -> Array:
    q, k = given[:2]
    walk = over_keys(q, k, keys)
    ins = [walk.query, walk.key, walk.key, walk.run, walk.row, walk.row, walk.query]
    return call(
        walk, _query_kernel, "attend_grad_queries", given, ins, walk.query, jax.ShapeDtypeStruct(q.shape, q.dtype),
        [(walk.rows, q.shape[3])], cost(q, k, products=3), interpret,
    )  # fmt: skip


def _query_kernel(
    length: int, table: Any, q: Any, k: Any, v: Any, runs: Any, lse: Any, d: Any, do: Any, dq: Any, total: Any
) -> None:
    j = pl.program_id(3)
    full, partial, block = in_list(table, pl.program_id(0) * pl.num_programs(2) + pl.program_id(2), length, j)

    @pl.when(j == 0)
    def _start() -> None:
        total[...] = jnp.zeros_like(total)

    def add(masked: bool) -> None:
        _, ds = _p_and_ds(q, k, v, runs, lse, d, do, block * len(k), masked)
        total[...] += product(ds.astype(k.dtype), k[...], (0, 0))

    pl.when(full)(lambda: add(masked=False))
    pl.when(partial)(lambda: add(masked=True))

    @pl.when(j == length - 1)
    def _finish() -> None:
        dq[...] = (total[...] * q.shape[-1] ** -0.5).astype(dq.dtype)


def _keys(given: tuple[Array, ...], queries: Lists, interpret: Any) -> tuple[Array, Array]:
    q, k, v = given[:3]
    walk = over_queries(q, k, queries)
    ins = [walk.query, walk.key, walk.key, walk.run, walk.row, walk.row, walk.query]
    outs = [jax.ShapeDtypeStruct(k.shape, k.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)]
    return call(
        walk, _key_kernel, "attend_grad_keys", given, ins, [walk.key] * 2, outs, [(walk.columns, q.shape[3])] * 2,
        cost(q, k, products=4), interpret,
    )  # fmt: skip


def _key_kernel(
    length: int, table: Any, q: Any, k: Any, v: Any, runs: Any, lse: Any, d: Any, do: Any, dk: Any, dv: Any,
    total_k: Any, total_v: Any,
) -> None:  # fmt: skip
    at, last = pl.program_id(3), pl.program_id(3) == pl.num_programs(3) - 1
    own = pl.program_id(2)
    full, partial, _ = in_list(table, pl.program_id(0) * pl.num_programs(2) + own, length, jax.lax.rem(at, length))

    @pl.when(at == 0)
    def _start() -> None:
        total_k[...], total_v[...] = jnp.zeros_like(total_k), jnp.zeros_like(total_v)

    def add(masked: bool) -> None:
        p, ds = _p_and_ds(q, k, v, runs, lse, d, do, own * len(k), masked)
        total_v[...] += product(p.astype(do.dtype), do[...], (1, 0))
        total_k[...] += product(ds.astype(q.dtype), q[...], (1, 0))

    pl.when(full)(lambda: add(masked=False))
    pl.when(partial)(lambda: add(masked=True))

    @pl.when(last)
    def _finish() -> None:
        dk[...] = (total_k[...] * q.shape[-1] ** -0.5).astype(dk.dtype)
        dv[...] = total_v[...].astype(dv.dtype)
