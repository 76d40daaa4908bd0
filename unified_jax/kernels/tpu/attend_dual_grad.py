r"""The gradient of attention over key ranges and its tangent for TPU: two kernels, both without stored scores.

With dots for tangents along q., k., v. and of the cotangents, and what `tpu.attend_grad` computes (P, dS, D),

    S. = (K. Q^T + K Q.^T) / sqrt(e)
    P. = P (S. - lse.)
    dS. = P. (V dO^T - D) + P (V. dO^T + V dO.^T - D.)

    dQ. = (dS.^T K + dS^T K.) / sqrt(e)
    dV. = P. dO + P dO.,   dK. = (dS. Q + dS Q.) / sqrt(e)

The tangent of a gradient is also the gradient of a tangent: with x' the tangents and y', y the cotangents of the two
results of `tpu.attend_dual`, it is what reverse mode over forward mode needs.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

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
from unified_jax.kernels.tpu.attend_dual import MOST
from unified_jax.kernels.tpu.passes import Pass, call, cost, in_list, over_keys, over_queries


class Given(NamedTuple):
    """What both kernels read, arrays or references to blocks of them: values, then tangents."""

    q: Any
    k: Any
    v: Any
    do: Any
    lse: Any
    d: Any
    q2: Any
    k2: Any
    v2: Any
    do2: Any
    lse2: Any
    d2: Any
    runs: Any


def backward(
    at: tuple[Array, ...], along: tuple[Array, ...], visible: Visible | None, interpret: Any = False
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    """((dq, dk, dv), their tangents) of (q, k, v, lse, d, do) `at` with tangents `along`; d is D above."""
    q, k, v = at[:3]
    n, m = q.shape[1], k.shape[1]
    laid = lay(q, k, v, visible, MOST)
    filled = ((0, 0), (0, 0), (0, laid.q.shape[2] - n))

    def row(x: Array) -> Array:
        return jnp.pad(jnp.swapaxes(jnp.where(jnp.isneginf(x), 0.0, x), 1, 2), filled)[:, :, None]

    def rest(given: tuple[Array, ...]) -> tuple[Array, ...]:
        """(do, lse, d)."""
        return heads_first(given[5].astype(q.dtype), block_size(n, MOST)), row(given[3]), row(given[4])

    tangents = [heads_first(x, block_size(x.shape[1], MOST)) for x in along[:3]]
    given = Given._make((laid.q, laid.k, laid.v, *rest(at), *tangents, *rest(along), laid.blocks.runs))
    dq, dq2 = _queries(given, laid.blocks.keys, interpret)
    dk, dv, dk2, dv2 = _keys(given, laid.blocks.queries, interpret)
    return (
        (tokens_first(dq, n), tokens_first(dk, m), tokens_first(dv, m)),
        (tokens_first(dq2, n), tokens_first(dk2, m), tokens_first(dv2, m)),
    )


def _weights(x: Given, first: Any, masked: bool) -> tuple[Array, Array, Array, Array]:
    """(P, dS) and their tangents, keys down; `first` is the first key."""
    scale = x.q.shape[-1] ** -0.5
    s = product(x.k[...], x.q[...], (1, 1)) * scale
    s2 = (product(x.k2[...], x.q[...], (1, 1)) + product(x.k[...], x.q2[...], (1, 1))) * scale
    p = jnp.exp(s - x.lse[...])
    if masked:
        p = jnp.where(sees(x.runs, first, s.shape), p, 0.0)
    p2 = p * (s2 - x.lse2[...])
    g = product(x.v[...], x.do[...], (1, 1)) - x.d[...]
    g2 = product(x.v2[...], x.do[...], (1, 1)) + product(x.v[...], x.do2[...], (1, 1)) - x.d2[...]
    return p, p * g, p2, p2 * g + p * g2


def _spec(walk: Pass) -> list[Any]:
    """The blocks of `Given`."""
    return [*(walk.query, walk.key, walk.key, walk.query, walk.row, walk.row) * 2, walk.run]


def _queries(given: Given, keys: Lists, interpret: Any) -> Any:
    q, k = given[:2]
    walk = over_keys(q, k, keys)
    return call(
        walk, _query_kernel, "attend_dual_grad_queries", given, _spec(walk), [walk.query] * 2,
        [jax.ShapeDtypeStruct(q.shape, q.dtype)] * 2, [(walk.rows, q.shape[3])] * 2, cost(q, k, products=9), interpret,
    )  # fmt: skip


def _query_kernel(length: int, table: Any, *refs: Any) -> None:
    x, (dq, dq2, total, total2) = Given(*refs[:-4]), refs[-4:]
    j = pl.program_id(3)
    full, partial, block = in_list(table, pl.program_id(0) * pl.num_programs(2) + pl.program_id(2), length, j)

    @pl.when(j == 0)
    def _start() -> None:
        total[...], total2[...] = jnp.zeros_like(total), jnp.zeros_like(total2)

    def add(masked: bool) -> None:
        _, ds, _, ds2 = _weights(x, block * len(x.k), masked)
        ds, ds2 = ds.astype(x.k.dtype), ds2.astype(x.k.dtype)
        total[...] += product(ds, x.k[...], (0, 0))
        total2[...] += product(ds2, x.k[...], (0, 0)) + product(ds, x.k2[...], (0, 0))

    pl.when(full)(lambda: add(masked=False))
    pl.when(partial)(lambda: add(masked=True))

    @pl.when(j == length - 1)
    def _finish() -> None:
        scale = x.q.shape[-1] ** -0.5
        dq[...], dq2[...] = (total[...] * scale).astype(dq.dtype), (total2[...] * scale).astype(dq2.dtype)


def _keys(given: Given, queries: Lists, interpret: Any) -> Any:
    q, k, v = given[:3]
    walk = over_queries(q, k, queries)
    outs = [jax.ShapeDtypeStruct(k.shape, k.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)]
    return call(
        walk, _key_kernel, "attend_dual_grad_keys", given, _spec(walk), [walk.key] * 4, outs * 2,
        [(walk.columns, q.shape[3])] * 4, cost(q, k, products=12), interpret,
    )  # fmt: skip


def _key_kernel(length: int, table: Any, *refs: Any) -> None:
    x, outs, totals = Given(*refs[:-8]), refs[-8:-4], refs[-4:]
    at, last, own = pl.program_id(3), pl.program_id(3) == pl.num_programs(3) - 1, pl.program_id(2)
    full, partial, _ = in_list(table, pl.program_id(0) * pl.num_programs(2) + own, length, jax.lax.rem(at, length))

    @pl.when(at == 0)
    def _start() -> None:
        for total in totals:
            total[...] = jnp.zeros_like(total)

    def add(masked: bool) -> None:
        p, ds, p2, ds2 = (w.astype(x.q.dtype) for w in _weights(x, own * len(x.k), masked))
        totals[0][...] += product(ds, x.q[...], (1, 0))
        totals[1][...] += product(p, x.do[...], (1, 0))
        totals[2][...] += product(ds2, x.q[...], (1, 0)) + product(ds, x.q2[...], (1, 0))
        totals[3][...] += product(p2, x.do[...], (1, 0)) + product(p, x.do2[...], (1, 0))

    pl.when(full)(lambda: add(masked=False))
    pl.when(partial)(lambda: add(masked=True))

    @pl.when(last)
    def _finish() -> None:
        for out, total, scale in zip(outs, totals, (x.q.shape[-1] ** -0.5, 1.0) * 2, strict=True):
            out[...] = (total[...] * scale).astype(out.dtype)
