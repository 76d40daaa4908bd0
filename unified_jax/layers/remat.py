"""Rematerialisation: what the backward pass keeps of a block, and what it computes again.

none      all intermediate results
dots      the results of products without a batch axis (the projections); the rest is computed again
offload   the same results, kept in the host's memory and brought back: for accelerators, where links to the host
          are fast enough to hide behind the blocks
full      a block's input alone: least memory, about a third more products

Blocks that are unrolled give XLA's CPU compiler a choice of its own, which `computed_once` takes from it.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels.choice import device
from unified_jax.precision import precision

Remat = Literal["none", "dots", "offload", "full"]


def rematerialised(block: Any, remat: Remat, static: tuple[int, ...] = ()) -> Any:
    """The module class `block` under a policy; `static` are the places of its call's arguments that are no arrays."""
    if remat == "none":
        return block
    policies = jax.checkpoint_policies
    policy = {
        "dots": policies.dots_with_no_batch_dims_saveable,
        "offload": policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
        "full": None,
    }[remat]
    return nn.remat(block, prevent_cse=False, policy=policy, static_argnums=static)


def computed_once(x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """The residual stream x, unchanged; on a CPU its gradient is computed once.

    In unrolled blocks XLA's CPU compiler would compute the gradient of the stream again in each loop that reads it, as
    the sum of what all later blocks add to it: work that grows with the square of the depth. (It drops optimization
    barriers before it fuses loops; a matrix product it does not fuse.)
    """
    return _read_by_a_product(x) if device()[0] == "cpu" else x


@jax.custom_jvp
def _read_by_a_product(x: Array) -> Array:
    return x


@_read_by_a_product.defjvp
def _read_by_a_product_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (tangent,) = tangents
    ones = jnp.ones((tangent.shape[-1], 1), tangent.dtype)
    nothing = 0.0 * jnp.matmul(tangent, ones, precision=precision(tangent.dtype))
    return primals[0], tangent + nothing
