r"""The block of a U-ViT: `networks.uvit` has the equations."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels.choice import Attention
from unified_jax.kernels.inputs import Visible
from unified_jax.layers.attention import AttentionHalf
from unified_jax.layers.mlp import Dense
from unified_jax.layers.modulation import AffineNorm
from unified_jax.layers.remat import computed_once
from unified_jax.networks.encoder_blocks import Activation, EncoderMlp
from unified_jax.sharding import constrain

Norms = Literal["pre", "post"]
EPS = 1e-5


class UVitBlock(nn.Module):
    """One block, with what it joins if `joins`."""

    heads: int
    hidden: int
    norms: Norms
    qkv_bias: bool
    activation: Activation
    dtype: jnp.dtype
    attention: Attention
    joins: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        kept: Float[Array, "b n d"] | None = None,
        visible: Visible | None = None,
        attention: bool = False,
        hidden: bool = False,
    ) -> tuple[Float[Array, "b n d"], tuple[Float[Array, "b n d"] | None, dict[str, Array]]]:
        """(x, (x to keep, captured)); captured["attention"] with `attention`, captured["hidden"] with `hidden`."""
        post, dtype, d = self.norms == "post", self.dtype, x.shape[-1]
        if kept is not None:
            x = Dense(d, (None, "embed"), dtype=dtype, name="join")(jnp.concatenate([x, kept], axis=-1))
            x = AffineNorm(EPS, name="join_norm")(x) if post else x.astype(jnp.float32)
        half = AttentionHalf(
            self.heads, norm="none" if post else "layer", affine=not post, bias=self.qkv_bias, out_bias=True, eps=EPS,
            dtype=dtype, attention=self.attention, name="attention",
        )  # fmt: skip
        x, captured = half(x, None, visible, None, attention)
        x = computed_once(AffineNorm(EPS, name="attention_norm")(x) if post else x)
        h = x if post else AffineNorm(EPS, name="mlp_norm")(x)
        x = x + EncoderMlp(self.hidden, self.activation, dtype=dtype, name="mlp")(h).astype(x.dtype)
        x = AffineNorm(EPS, name="mlp_norm")(x) if post else x
        x = computed_once(constrain(x, "batch", "length", "embed"))
        return x, (None if self.joins else x, captured | ({"hidden": x} if hidden else {}))
