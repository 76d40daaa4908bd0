r"""Attention over key ranges and its tangent for TPU, in one pass over the listed key blocks.

With dots for tangents, keys down and queries across, each block adds to what `tpu.attend` keeps

    S. = (K. Q^T + K Q.^T) / sqrt(e)
    r = r exp(m - m') + sum_down(P S.)
    U = U exp(m - m') + V^T (P S.) + V.^T P          [e, queries]

and at the end, with the mean of S. under the probabilities,

    lse. = r / l,   out. = U / l - out lse.          an empty key range: 0 and 0

so that neither the scores nor their tangents are stored, and blocks outside every range are not read.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from unified_jax.kernels.inputs import Visible
from unified_jax.kernels.tpu.attend import (
    LOWEST,
    MASKED,
    block_size,
    heads_first,
    lay,
    product,
    sees,
    tokens_first,
)
from unified_jax.kernels.tpu.passes import call, cost, in_list, over_keys

MOST = 256
"""Tokens of a block at most: twice as many arrays as in `tpu.attend` share the same memory."""


def forward(
    at: tuple[Array, Array, Array],
    along: tuple[Array, Array, Array],
    visible: Visible | None,
    interpret: Any = False,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n h"], Float[Array, "b n h e"], Float[Array, "b n h"]]:
    """(out, log-sum-exp, their tangents) of q, k, v `at` with tangents `along`."""
    laid = lay(*at, visible, MOST)
    n, m = at[0].shape[1], at[1].shape[1]
    blocks = (block_size(n, MOST), block_size(m, MOST), block_size(m, MOST))
    tangents = [heads_first(x, block) for x, block in zip(along, blocks, strict=True)]
    out, lse, dout, dlse = _run((laid.q, laid.k, laid.v, *tangents, laid.blocks.runs), laid.blocks.keys, interpret)
    rows = [jnp.swapaxes(x[:, :, 0, :n], 1, 2) for x in (lse, dlse)]
    return tokens_first(out, n), rows[0], tokens_first(dout, n), rows[1]


def _run(given: tuple[Array, ...], keys: Any, interpret: Any) -> Any:
    q, k, v = given[:3]
    walk, (b, h, n, e) = over_keys(q, k, keys), q.shape
    ins = [*(walk.query, walk.key, walk.key) * 2, walk.run]
    outs = [jax.ShapeDtypeStruct(q.shape, v.dtype), jax.ShapeDtypeStruct((b, h, 1, n), jnp.float32)]
    return call(
        walk, _kernel, "attend_dual", given, ins, [walk.query, walk.row] * 2, outs * 2,
        [(e, walk.rows)] * 2 + [(1, walk.rows)] * 3, cost(q, k, products=6), interpret,
    )  # fmt: skip


def _kernel(
    length: int, table: Any, q: Any, k: Any, v: Any, dq: Any, dk: Any, dv: Any, runs: Any,
    out: Any, lse: Any, dout: Any, dlse: Any, o: Any, u: Any, m: Any, l: Any, r: Any,
) -> None:  # fmt: skip
    j = pl.program_id(3)
    full, partial, block = in_list(table, pl.program_id(0) * pl.num_programs(2) + pl.program_id(2), length, j)

    @pl.when(j == 0)
    def _start() -> None:
        m[...] = jnp.full_like(m, LOWEST)
        for total in (o, u, l, r):
            total[...] = jnp.zeros_like(total)

    def look(masked: bool) -> None:
        scale = q.shape[-1] ** -0.5
        s = product(k[...], q[...], (1, 1)) * scale
        ds = (product(dk[...], q[...], (1, 1)) + product(k[...], dq[...], (1, 1))) * scale
        if masked:
            s = jnp.where(sees(runs, block * len(s), s.shape), s, MASKED)
        top = jnp.maximum(m[...], jnp.max(s, axis=0, keepdims=True))
        p, fade = jnp.exp(s - top), jnp.exp(m[...] - top)
        dp = p * ds
        l[...] = l[...] * fade + jnp.sum(p, axis=0, keepdims=True)
        r[...] = r[...] * fade + jnp.sum(dp, axis=0, keepdims=True)
        p, dp = p.astype(v.dtype), dp.astype(v.dtype)
        o[...] = o[...] * fade + product(v[...], p, (0, 0))
        u[...] = u[...] * fade + product(v[...], dp, (0, 0)) + product(dv[...], p, (0, 0))
        m[...] = top

    pl.when(full)(lambda: look(masked=False))
    pl.when(partial)(lambda: look(masked=True))

    @pl.when(j == length - 1)
    def _finish() -> None:
        empty = l[...] == 0
        total = jnp.where(empty, 1.0, l[...])
        mean = r[...] / total
        value = o[...] / total
        out[...] = value.T.astype(out.dtype)
        dout[...] = (u[...] / total - value * mean).T.astype(dout.dtype)
        lse[...] = jnp.where(empty, -jnp.inf, m[...] + jnp.log(total))
        dlse[...] = mean
