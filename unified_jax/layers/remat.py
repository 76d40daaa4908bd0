"""Rematerialisation: what the backward pass keeps of a block, and what it recomputes.

none      all intermediate results
dots      the results of products without a batch axis (the projections); the rest is recomputed
offload   the same results, in host memory: for accelerators whose host link is fast enough to overlap with the
          blocks
full      only a block's input: least memory, about a third more products

For unrolled blocks XLA's CPU compiler would recompute gradients, which `computed_once` prevents.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels.choice import device
from unified_jax.kernels.product import product_p, shared
from unified_jax.precision import EXACT

Remat = Literal["none", "dots", "offload", "full"]


def rematerialised(block: Any, remat: Remat, static: tuple[int, ...] = ()) -> Any:
    """The module class `block` under a policy; `static` are the indices of its call's arguments that are not arrays."""
    if remat == "none":
        return block
    policies = jax.checkpoint_policies
    policy = {
        "dots": policies.dots_with_no_batch_dims_saveable,
        "offload": policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
        "full": None,
    }[remat]
    return nn.remat(block, prevent_cse=False, policy=_of_products(policy), static_argnums=static)


def _of_products(policy: Any) -> Any:
    """The policy, with the products of bfloat16 arrays on a CPU (`kernels.product`) as the products that they are."""
    if policy is None:
        return None

    def kept(operation: Any, *given: Any, **parameters: Any) -> Any:
        if operation is not product_p:
            return policy(operation, *given, **parameters)
        batch = tuple(range(len(shared(parameters["form"]))))
        return policy(jax.lax.dot_general_p, *given, dimension_numbers=(((), ()), (batch, batch)))

    return kept


def computed_once(x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """The residual stream x, unchanged; on a CPU its gradient is computed once.

    In unrolled blocks XLA's CPU compiler would recompute the gradient of the stream in each loop that reads it, as the
    sum of the contributions of all later blocks: work that grows with the square of the depth. (It drops optimization
    barriers before it fuses loops; a matrix product it does not fuse.)
    """
    return _read_by_a_product(x) if device()[0] == "cpu" else x


@jax.custom_jvp
def _read_by_a_product(x: Array) -> Array:
    return x


@_read_by_a_product.defjvp
def _read_by_a_product_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (tangent,) = tangents
    long = tangent.astype(jnp.float32)  # a sum over bfloat16 would be a slow loop
    nothing = 0.0 * jnp.matmul(long, jnp.ones((tangent.shape[-1], 1)), precision=EXACT)
    return primals[0], (long + nothing).astype(tangent.dtype)
