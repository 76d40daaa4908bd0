r"""Gradient norms of the loss terms, and the cosines between them, on one batch.

With g_k the gradient of w_k S_k / W_k (`training.step`) over all parameters, `grad_norm/k` is |g_k| and
`grad_cosine/k,l` is g_k . g_l / (|g_k| |g_l|). It needs one forward pass and one backward pass per term, so the
loop measures it occasionally, outside the step.
"""

import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.models.base import Model
from unified_jax.precision import EXACT
from unified_jax.training.balancing import Balance
from unified_jax.training.state import State
from unified_jax.training.step import losses_of, scales
from unified_jax.typing import Batch, Params


def term_gradients(
    model: Model, balance: Balance, state: State, frozen: Params, batch: Batch, key: Array
) -> dict[str, Array]:
    """The norms and cosines. A term absent from the batch has norm 0 and cosines 0."""
    key = jax.random.fold_in(key, state.step)

    run = losses_of(model, state, frozen, key)

    def weighted(params: Params) -> dict[str, Array]:
        found = run(params, batch)
        _, scale = scales(balance, state, found.weights)
        return {name: scale[name] * total for name, total in found.totals.items()}

    values, pull = jax.vjp(weighted, state.params)
    names = tuple(values)
    one_each = {name: jnp.eye(len(names))[i] for i, name in enumerate(names)}
    gradients = jax.lax.map(lambda chosen: pull(chosen)[0], one_each)
    flat = [leaf.reshape(len(names), -1) for leaf in jax.tree.leaves(gradients)]
    products = jnp.sum(jnp.stack([jnp.matmul(leaf, leaf.T, precision=EXACT) for leaf in flat]), axis=0)
    norms = jnp.sqrt(jnp.diag(products))
    cosines = products / jnp.maximum(norms[:, None] * norms[None], 1e-30)
    found = {f"grad_norm/{name}": norms[i] for i, name in enumerate(names)}
    pairs = itertools.combinations(range(len(names)), 2)
    return found | {f"grad_cosine/{names[i]},{names[j]}": cosines[i, j] for i, j in pairs}
