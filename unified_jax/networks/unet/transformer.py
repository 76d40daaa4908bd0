r"""The transformer of a latent diffusion U-Net (Rombach et al. 2022), over the positions of a map.

    x + W_out blocks(W_in norm(x)),         norm: groups, eps 1e-6
    block   x += Attention(LN(x))           the map with itself
            x += Attention(LN(x), tokens)   the map with the tokens of a condition, or with itself where there is none
            x += W2 (a * gelu(g)),          [a, g] = W1 LN(x) (Shazeer 2020), gelu exact

The blocks are one block scanned over a leading `layers` axis of its parameters. Published weights call W_in and W_out a
convolution of size 1 (Stable Diffusion 1) or a matrix (2 and XL): both are this product.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from unified_jax.kernels.elementwise import activate, add_bias
from unified_jax.kernels.inputs import Visible
from unified_jax.kernels.product import einsum
from unified_jax.layers.attention import AttentionHalf, CrossAttentionHalf
from unified_jax.layers.conv import GroupNorm
from unified_jax.layers.init import declare, xavier, zeros
from unified_jax.layers.mlp import Dense
from unified_jax.layers.modulation import AffineNorm
from unified_jax.layers.remat import Remat, rematerialised
from unified_jax.networks.unet.blocks import Style, settle
from unified_jax.sharding import constrain

EPS = 1e-5
"""Added to the variance in the norms of a block."""


class GeGlu(nn.Module):
    """W2 (a * gelu(g)) with [a, g] = W1 x; the kernel of W1 is `[d, 2, hidden]`: its halves are sharded alike."""

    hidden: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """The hidden features are sharded over the tensor axis."""
        shape = (x.shape[-1], 2, self.hidden)
        kernel = declare(self, "kernel", xavier(shape[0], 2 * self.hidden), shape, ("embed", None, "mlp"))
        bias = declare(self, "bias", zeros, shape[1:], (None, "mlp"))
        h = einsum("bnd,dkm->bnkm", x.astype(self.dtype), kernel.astype(self.dtype))
        h = add_bias(h, bias)
        h = activate(lambda a, g: a * jax.nn.gelu(g, approximate=False), h[:, :, 0], h[:, :, 1])
        h = constrain(h, "batch", "length", "mlp")
        return Dense(x.shape[-1], ("mlp", "embed"), dtype=self.dtype, name="out")(h)


class TransformerBlock(nn.Module):
    """One block, as a scan takes it."""

    heads: int
    style: Style
    context_only: bool = False
    """Whether the first attention also reads the tokens of the condition."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], memory: Float[Array, "b m f"] | None = None, visible: Visible | None = None
    ) -> tuple[Float[Array, "b n d"], None]:
        """(x after the block, nothing)."""
        d, dtype = x.shape[-1], jnp.dtype(self.style.dtype)
        for name, reads in (("attn1", self.context_only), ("attn2", True)):
            if reads and memory is not None:
                cross = CrossAttentionHalf(self.heads, EPS, dtype, self.style.attention, bias=False, name=name)
                x = cross(x, memory, visible)
            else:
                half = AttentionHalf(
                    self.heads, affine=True, bias=False, out_bias=True, eps=EPS, dtype=dtype,
                    attention=self.style.attention, name=name,
                )  # fmt: skip
                x, _ = half(x)
        h = GeGlu(4 * d, dtype, name="mlp")(AffineNorm(EPS, name="mlp_norm")(x))
        return constrain(x + h.astype(x.dtype), "batch", "length", "embed"), None


class SpatialTransformer(nn.Module):
    """The transformer over a map."""

    heads: int
    depth: int
    style: Style
    context_only: bool = False
    remat: Remat = "dots"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], memory: Float[Array, "b m f"] | None = None, visible: Visible | None = None
    ) -> Float[Array, "b h w c"]:
        """The map after the branch; `visible` is the range of tokens that each position reads."""
        b, _, _, c = x.shape
        dtype = jnp.dtype(self.style.dtype)
        h = GroupNorm(self.style.groups, 1e-6, "embed", name="norm")(x).reshape(b, -1, c)
        h = Dense(c, (None, "embed"), dtype=dtype, name="proj_in")(h)
        broadcast: Any = (nn.broadcast,) * 2
        stack = nn.scan(
            rematerialised(TransformerBlock, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=broadcast,
            length=self.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        h, _ = stack(self.heads, self.style, self.context_only, name="blocks")(h, memory, visible)
        h = Dense(c, (None, "embed"), zeros, dtype=dtype, name="proj_out")(h)
        return settle(x.astype(dtype) + h.reshape(x.shape))
