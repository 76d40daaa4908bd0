"""Attention by cuDNN, for comparison and where it is fastest: bfloat16 or float16 on an NVIDIA GPU.

cuDNN has no key ranges: they become a bias of the size of the scores. It has no differentiable log-sum-exp, which XLA
computes instead; if unused, the compiler removes that pass.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels import reference, xla
from unified_jax.kernels.inputs import Visible


def attend(
    q: Float[Array, "b n h e"],
    k: Float[Array, "b m g e"],
    v: Float[Array, "b m g e"],
    visible: Visible | None = None,
    bias: Float[Array, "b h n m"] | None = None,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n h"]]:
    """(output in v's dtype, log-sum-exp float32). See `reference.attend`."""
    mask = None if visible is None else reference.dense_mask(visible, k.shape[1])[:, None]
    out = jax.nn.dot_product_attention(q, k, v, bias, mask, implementation="cudnn")
    if visible is not None:  # with an empty key range cuDNN returns the mean of all values
        out = jnp.where((visible[..., 0] < visible[..., 1])[..., None, None], out, 0)
    return out, xla.attend(q, k, v, visible, bias)[1]
