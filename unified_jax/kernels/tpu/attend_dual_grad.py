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

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from unified_jax.kernels.blocks import Lists
from unified_jax.kernels.inputs import Visible
from unified_jax.kernels.tpu.attend import (
    block_at,
    block_size,
    cost,
    heads_first,
    in_list,
    lay,
    product,
    sees,
    tokens_first,
)
from unified_jax.kernels.tpu.attend_dual import MOST


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


def _spec(query: Any, key: Any, row: Any, run: Any) -> list[Any]:
    """The blocks of `Given`."""
    return [*(query, key, key, query, row, row) * 2, run]


def _queries(given: Given, keys: Lists, interpret: Any) -> Any:
    q, k = given[:2]
    b, h, n, e = q.shape
    lists, length = keys.blocks.shape[1:]
    r, rows, columns = h // k.shape[1], n // lists, k.shape[2] // length

    def key_block(b: Any, h: Any, i: Any, j: Any, table: Any) -> tuple[Any, ...]:
        return b, jax.lax.div(h, r), block_at(table, b * lists + i, length, j), 0

    query = pl.BlockSpec((None, None, rows, e), lambda b, h, i, j, table: (b, h, i, 0))
    key = pl.BlockSpec((None, None, columns, e), key_block)
    row = pl.BlockSpec((None, None, 1, rows), lambda b, h, i, j, table: (b, h, 0, i))
    run = pl.BlockSpec((None, 2, rows), lambda b, h, i, j, table: (b, 0, i))
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=(b, h, lists, length),
        in_specs=_spec(query, key, row, run),
        out_specs=[query, query],
        scratch_shapes=[pltpu.VMEM((rows, e), jnp.float32)] * 2,
    )
    return pl.pallas_call(
        functools.partial(_query_kernel, length),
        grid_spec=grid,
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype)] * 2,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3 + ("arbitrary",)),
        cost_estimate=cost(q, k, products=9),
        interpret=interpret,
        name="attend_dual_grad_queries",
    )(keys.flat, *given)


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
    b, h, n, e = q.shape
    lists, length = queries.blocks.shape[1:]
    groups, rows, columns = k.shape[1], n // length, k.shape[2] // lists
    r = h // groups

    def place(b: Any, g: Any, i: Any, at: Any, table: Any) -> tuple[Any, Any]:
        """(head, query block): the r query heads of a key head, one after the other, `length` blocks each."""
        entry = jax.lax.rem(at, length)
        return g * r + jax.lax.div(at, length), block_at(table, b * lists + i, length, entry)

    query = pl.BlockSpec((None, None, rows, e), lambda b, *at: (b, *place(b, *at), 0))
    key = pl.BlockSpec((None, None, columns, e), lambda b, g, i, at, table: (b, g, i, 0))
    row = pl.BlockSpec((None, None, 1, rows), lambda b, *at: (b, place(b, *at)[0], 0, place(b, *at)[1]))
    run = pl.BlockSpec((None, 2, rows), lambda b, *at: (b, 0, place(b, *at)[1]))
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=(b, groups, lists, r * length),
        in_specs=_spec(query, key, row, run),
        out_specs=[key] * 4,
        scratch_shapes=[pltpu.VMEM((columns, e), jnp.float32)] * 4,
    )
    outs = [jax.ShapeDtypeStruct(k.shape, k.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)]
    return pl.pallas_call(
        functools.partial(_key_kernel, length),
        grid_spec=grid,
        out_shape=outs * 2,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3 + ("arbitrary",)),
        cost_estimate=cost(q, k, products=12),
        interpret=interpret,
        name="attend_dual_grad_keys",
    )(queries.flat, *given)


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
