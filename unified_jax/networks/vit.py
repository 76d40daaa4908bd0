r"""The vision transformer of image encoders (Dosovitskiy et al. 2021, arXiv 2010.11929): images in, features out.

    x = [class token, registers, patches W + b] + positions          registers have no position
    x = LN(x)                                                        CLIP alone
    x = blocks(x)                                                    pre-norm (`networks.encoder_blocks`)
    y = LN(x)
    pooled                                                           the class token of y (projected: CLIP), or a
                                                                     learned probe's attention over y (SigLIP)

Positions are a table over a square grid of patches; another grid resamples it by cubic interpolation
(`layers.resampling`). Images come normalised, channels last: `models.image_encoder` knows each family's numbers.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels import choice
from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.kernels.inputs import OutWeights
from unified_jax.kernels.product import einsum
from unified_jax.layers.init import declare, normal, xavier, zeros
from unified_jax.layers.mlp import Dense
from unified_jax.layers.resampling import resample
from unified_jax.modalities.grid import patchify
from unified_jax.networks.encoder_blocks import Activation, BlockSpec, EncoderMlp, Norm, encoder_blocks
from unified_jax.sharding import constrain

Pool = Literal["class", "probe", "none"]


class VisionOutput(NamedTuple):
    """The outputs of a vision transformer, float32."""

    tokens: Float[Array, "b n d"]
    """Features after the final norm: class token, registers, patches (rows first)."""
    pooled: Float[Array, "b v"] | None
    """The vector of the image."""
    hidden: Float[Array, "l b n d"] | None = None
    """What enters each block, and what leaves the last, before the final norm; None unless asked for."""
    last: Float[Array, "b n d"] | None = None
    """What leaves the last block."""


class Vit(nn.Module):
    """A vision transformer, by default CLIP's ViT-L/14."""

    size: int = 224
    """Side of the images of the table of positions, in pixels."""
    patch: int = 14
    """Side of a patch."""
    channels: int = 3
    """Channels of an image."""
    width: int = 1024
    """Features of the residual stream, and of a token."""
    depth: int = 24
    """Number of blocks."""
    heads: int = 16
    """Attention heads; must divide width."""
    hidden: int = 4096
    """Hidden features of the MLP."""
    activation: Activation = "quick_gelu"
    """Activation of the MLP."""
    gated: bool = False
    """Whether the MLP is gated (DINOv2's giant: with silu)."""
    eps: float = 1e-5
    """Added to the variance in every norm."""
    class_token: bool = True
    """Whether a learned token precedes the patches."""
    registers: int = 0
    """Learned tokens between the class token and the patches."""
    patch_bias: bool = False
    """Whether the patch embedding has a bias."""
    qkv_bias: bool = True
    """Whether queries, keys and values have biases."""
    first_norm: bool = True
    """Whether a norm precedes the blocks."""
    layer_scale: bool = False
    """Whether each branch has a gain per feature."""
    antialias: bool = False
    """Whether the resampling of positions averages where the grid shrinks."""
    pool: Pool = "class"
    """The vector of an image: its class token, a learned probe's attention, or none."""
    projection: int = 0
    """Features of the projected vector; 0: the vector is not projected."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, the residual stream, norms and softmax stay float32."""
    attention: Attention = "auto"
    """Implementation of attention."""

    def __post_init__(self) -> None:
        for name in ("size", "patch", "channels", "width", "depth", "heads", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"Vit.{name} must be at least 1, found {getattr(self, name)}.")
        if self.size < self.patch:
            raise ValueError(f"Vit.size {self.size} is less than a patch of {self.patch}.")
        if self.width % self.heads:
            raise ValueError(f"Vit.width {self.width} is not divisible by its {self.heads} heads.")
        if self.pool == "class" and not self.class_token:
            raise ValueError("Vit pools at its class token: set class_token, or another pool.")
        if self.projection and self.pool == "none":
            raise ValueError("Vit projects no vector: pool is 'none'.")
        check_attention(self.attention)
        super().__post_init__()

    @property
    def before(self) -> int:
        """Tokens before the patches."""
        return int(self.class_token) + self.registers

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], keep: bool = False) -> VisionOutput:
        """The features of normalised images; `keep` asks for `hidden`. What does not fill a patch is cut off.

        Raises ValueError for images smaller than a patch.
        """
        rows, columns = (side // self.patch for side in images.shape[1:3])
        if min(rows, columns) < 1:
            raise ValueError(f"Vit cuts patches of {self.patch}, found images of {list(images.shape[1:3])}.")
        images = images[:, : rows * self.patch, : columns * self.patch].astype(jnp.float32)
        tokens = constrain(patchify(images, (self.patch, self.patch)), "batch", "length", "patch")
        dtype = jnp.dtype(self.dtype)
        x = Dense(self.width, ("patch", "embed"), dtype=dtype, bias=self.patch_bias, name="patch")(tokens)
        x = self._placed(x.astype(jnp.float32), (rows, columns))
        if self.first_norm:
            x = Norm("layer", self.eps, name="first_norm")(x)
        spec = BlockSpec(
            self.depth, self.heads, self.hidden, self.activation, self.eps, dtype, self.attention,
            qkv_bias=self.qkv_bias, gated=self.gated, layer_scale=self.layer_scale,
        )  # fmt: skip
        last, hidden = encoder_blocks(spec, constrain(x, "batch", "length", "embed"), keep=keep)
        normed = Norm("layer", self.eps, name="norm")(last)
        return VisionOutput(normed, self._pooled(normed), hidden, last)

    def _placed(self, x: Float[Array, "b n d"], grid: tuple[int, int]) -> Float[Array, "b m d"]:
        """Patches with their positions, after the class token and the registers."""
        side, b, d = self.size // self.patch, x.shape[0], self.width
        count = side * side + int(self.class_token)
        table = declare(self, "positions", normal(0.02), (count, d), (None, "embed"))
        places = resample(table[int(self.class_token) :].reshape(side, side, d), grid, "cubic", self.antialias)
        parts = [x + places.reshape(-1, d)]
        if self.registers:
            registers = declare(self, "registers", normal(0.02), (self.registers, d), (None, "embed"))
            parts.insert(0, jnp.broadcast_to(registers, (b, *registers.shape)))
        if self.class_token:
            token = declare(self, "class_token", normal(0.02), (d,), ("embed",))
            parts.insert(0, jnp.broadcast_to(token + table[0], (b, 1, d)))
        return jnp.concatenate(parts, axis=1)

    def _pooled(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b v"] | None:
        if self.pool == "none":
            return None
        if self.pool == "probe":
            head = ProbePool(self.heads, self.hidden, self.activation, self.eps, jnp.dtype(self.dtype), name="head")
            vector = head(tokens)
        else:
            vector = tokens[:, 0]
        if not self.projection:
            return vector
        return Dense(self.projection, ("embed", None), bias=False, name="projection")(vector)


class ProbePool(nn.Module):
    """y + MLP(LN(y)), y = attention of one learned query to the tokens (Zhai et al. 2022)."""

    heads: int
    hidden: int
    activation: Activation
    eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        """One vector an image."""
        b, _, d = tokens.shape
        shape = (d, self.heads, 3, d // self.heads)
        probe = declare(self, "probe", xavier(d, d), (d,), ("embed",))
        kernel = declare(self, "qkv_kernel", xavier(d, 3 * d), shape, ("embed", "heads", None, "head_dim"))
        bias = declare(self, "qkv_bias", zeros, shape[1:], ("heads", None, "head_dim"))
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        query = jnp.broadcast_to(probe, (b, 1, d)).astype(self.dtype)
        q = einsum("bnd,dhe->bnhe", query, kernel[:, :, 0]) + bias[:, 0]
        kv = einsum("bnd,dhte->bnhte", tokens.astype(self.dtype), kernel[:, :, 1:]) + bias[:, 1:]
        a, _ = choice.attend(q, kv[..., 0, :], kv[..., 1, :], attention="xla")
        out = declare(
            self, "out_kernel", xavier(d, d), (self.heads, d // self.heads, d), ("heads", "head_dim", "embed")
        )
        weights = OutWeights(out.astype(self.dtype), declare(self, "out_bias", zeros, (d,), ("embed",)))
        y = choice.gated_out(jnp.zeros((b, 1, d)), a, weights, attention="xla")
        h = Norm("layer", self.eps, name="norm")(y)
        h = EncoderMlp(self.hidden, self.activation, dtype=self.dtype, name="mlp")(h)
        return (y + h.astype(y.dtype))[:, 0]
