r"""The gradient of attention over key ranges on Hopper: one kernel for dq and one for dk and dv.

With out = p v, p = exp(s - lse), s = scale q k^T and cotangents do of out and dlse of lse:

    ds = p (do v^T - d),   d = rowsum(do out) - dlse,   dq = scale ds k,   dk = scale ds^T q,   dv = p^T do

d is one number per row, computed outside; p is recomputed from lse, by both kernels.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.kernels.blocks import round_up
from unified_jax.kernels.hopper.attend import LOG2E, Launch, Tables, pad_to, padded_head, tables_of
from unified_jax.kernels.hopper.attend_dkv import KeyLaunch, key_gradients
from unified_jax.kernels.hopper.attend_dq import query_gradient


def row_stats(lse: Float[Array, "b n h"], d: Float[Array, "b n h"], rows: int) -> Float[Array, "b h 2 rows"]:
    """(lse log2(e), d) of each row: (+inf, 0) for empty key ranges and past the end, where p is thus 0."""
    empty = jnp.isneginf(lse)
    rest = ((0, 0), (0, rows - lse.shape[1]), (0, 0))
    scaled = jnp.pad(jnp.where(empty, jnp.inf, lse * LOG2E), rest, constant_values=jnp.inf)
    return jnp.transpose(jnp.stack([scaled, jnp.pad(jnp.where(empty, 0.0, d), rest)]), (1, 3, 0, 2))


def backward(
    q: Float[Array, "b n h e"],
    k: Float[Array, "b m g e"],
    v: Float[Array, "b m g e"],
    visible: Int[Array, "b n 2"] | None,
    lse: Float[Array, "b n h"],
    d: Float[Array, "b n h"],
    do: Float[Array, "b n h e"],
    interpret: bool = False,
) -> tuple[Array, Array, Array]:
    """(dq, dk, dv)."""
    (_, n, h, e), (_, keys, g, _) = q.shape, k.shape
    by_queries = Launch(keys, h // g, e**-0.5, visible is not None, interpret=interpret)
    by_keys = KeyLaunch(h // g, e**-0.5, visible is not None, interpret=interpret)
    stats = row_stats(lse, d, round_up(n, by_queries.block_q))
    padded = [pad_to(x, round_up(x.shape[1], 8), padded_head(e)) for x in (q, k, v, do.astype(q.dtype))]
    rows: Tables = ()
    columns: Tables = ()
    if visible is not None:
        rows, _ = tables_of(visible, keys, by_queries.block_q, by_queries.block_k)
        _, columns = tables_of(visible, keys, by_keys.block_q, by_queries.block_q)
    dq = query_gradient(padded[0], padded[1], padded[2], padded[3], stats, rows, by_queries)
    dk, dv = key_gradients(padded[0], padded[1], padded[2], padded[3], stats, columns, by_keys)
    return dq[:, :n, :, :e], dk[:, :keys, :, :e], dv[:, :keys, :, :e]
