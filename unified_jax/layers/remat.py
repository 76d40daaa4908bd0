"""Rematerialisation: what the backward pass keeps of a block, and what it computes again.

none      all intermediate results
dots      the results of products without a batch axis (the projections); the rest is computed again
offload   the same results, kept in the host's memory and brought back: for accelerators, where links to the host
          are fast enough to hide behind the blocks
full      a block's input alone: least memory, about a third more products
"""

from typing import Any, Literal

import flax.linen as nn
import jax

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
