r"""The conditions of unCLIP's decoder (Ramesh et al. 2022, arXiv 2204.06125; Karlo): an image vector and a text.

time    W1 z + W2 y + b                     added to the embedding of time: z the image's vector, y the text's
tokens  [k extra tokens, LN(W text + b)]    the extra ones are one linear map of z, [d, k] per image
"""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels.product import einsum
from unified_jax.layers.conditions import filled
from unified_jax.layers.form import ConditionInput
from unified_jax.layers.init import declare, xavier, zeros
from unified_jax.layers.mlp import Dense
from unified_jax.layers.modulation import AffineNorm


class UnclipConditions(nn.Module):
    """A vector for the embedding of time, and tokens for cross-attention."""

    extra: int = 4
    """Tokens that are made of the image's vector."""
    time: int = 1536
    """Width of the embedding of time."""
    width: int = 768
    """Features of a token."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters and the norm stay float32."""

    def __post_init__(self) -> None:
        if min(self.extra, self.time, self.width) < 1:
            raise ValueError(f"UnclipConditions needs positive sizes, found {self.extra}, {self.time}, {self.width}.")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, image: ConditionInput, vector: Float[Array, "b v"], text: Float[Array, "b m f"]
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b e"]]:
        """(tokens, the vector). An absent image is the learned null of its condition."""
        dtype: Any = jnp.dtype(self.dtype)
        z = filled(self, image).value
        time = Dense(self.time, (None, "embed"), dtype=dtype, name="image_time")(z)
        time = time + Dense(self.time, (None, "embed"), dtype=dtype, name="text_time")(vector)
        shape = (z.shape[-1], self.width, self.extra)
        kernel = declare(self, "extra_kernel", xavier(shape[0], self.width), shape, (None, "embed", None)).astype(dtype)
        tokens = einsum("bv,vdk->bkd", z.astype(dtype), kernel)
        bias = declare(self, "extra_bias", zeros, shape[1:], ("embed", None))
        tokens = tokens + bias.T.astype(dtype)
        words = AffineNorm(1e-5, name="norm")(Dense(self.width, (None, "embed"), dtype=dtype, name="text")(text))
        return jnp.concatenate([tokens.astype(jnp.float32), words], axis=1), time.astype(jnp.float32)
