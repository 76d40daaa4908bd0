r"""PCGrad (Yu et al. 2020, arXiv 2001.06782, algorithm 1): the update of several terms whose gradients conflict.

    for each term i:   h = g_i
        for each j != i in random order:   if h . g_j < 0:  h <- h - (h . g_j) / |g_j|^2  g_j
    update = sum_i h_i

Always against the original g_j. Every h_i is a combination sum_k c_ik g_k, and h_i . g_j = sum_k c_ik K_kj with the
Gram matrix K of the gradients. So only K is computed from the gradients, once, on any sharding; the rest is n by n.

Only shared parameters take part: where at most one term has a gradient (its own head), it is unchanged.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.precision import EXACT
from unified_jax.typing import Params


def project(each: Params, order: Int[Array, "n n"]) -> Params:
    """The update from every term's gradient, a tree of `[n, ...]`.

    Row i of `order` is the order in which term i is projected against the others.
    """
    leaves, form = jax.tree.flatten(each)
    flat = [leaf.reshape(leaf.shape[0], -1) for leaf in leaves]
    shared = [jnp.sum(jnp.any(rows != 0, axis=1)) > 1 for rows in flat]
    gram = sum(
        jnp.where(is_shared, jnp.matmul(rows, rows.T, precision=EXACT), 0.0)
        for rows, is_shared in zip(flat, shared, strict=True)
    )
    total = jnp.sum(coefficients(jnp.asarray(gram), order), axis=0)
    merged = [
        jnp.tensordot(jnp.where(is_shared, total, 1.0), leaf, 1, precision=EXACT)
        for leaf, is_shared in zip(leaves, shared, strict=True)
    ]
    return form.unflatten(merged)


def coefficients(gram: Float[Array, "n n"], order: Int[Array, "n n"]) -> Float[Array, "n n"]:
    """c: term i after its projections is sum_k c[i, k] g_k."""
    count = gram.shape[0]

    def one(i: Array, meets: Array) -> Array:
        def meet(c: Array, j: Array) -> tuple[Array, None]:
            along = jnp.matmul(c, gram[:, j], precision=EXACT)
            part = jnp.where((along < 0) & (j != i), along / jnp.where(gram[j, j] > 0, gram[j, j], 1.0), 0.0)
            return c.at[j].add(-part), None

        return jax.lax.scan(meet, jnp.eye(count)[i], meets)[0]

    return jax.vmap(one)(jnp.arange(count), order)
