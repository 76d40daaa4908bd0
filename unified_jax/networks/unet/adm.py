r"""ADM (Dhariwal and Nichol 2021): its U-Net, and the classifier of noised images that guides it.

    eps_hat = eps - s sqrt(1 - abar) grad_x log p(y | x_t, t)

The classifier is the way down and the middle of the U-Net, with a head

    attention   a token that is the mean, before the positions, with learned positions; attention; its output (as CLIP)
    adaptive    the mean over positions, a matrix
    spatial     the means of every block joined, a matrix, ReLU, a matrix; `spatial_v2` has a norm and SiLU between

Arguments follow guided-diffusion's `UNetModel` and `EncoderUNetModel`.
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels import choice
from unified_jax.kernels.inputs import QkvWeights
from unified_jax.layers.conv import GroupNorm
from unified_jax.layers.init import declare, normal, xavier, zeros
from unified_jax.layers.mlp import Dense
from unified_jax.networks.unet.blocks import Style, conv, settle
from unified_jax.networks.unet.embedding import Embedding
from unified_jax.networks.unet.levels import Change, Level, Shared, descend, middle
from unified_jax.networks.unet.network import UNet

Pool = Literal["adaptive", "attention", "spatial", "spatial_v2"]
HIDDEN = 2048
"""Features of the spatial heads."""


@dataclass(frozen=True)
class Adm:
    """The arguments that both networks share."""

    model_channels: int
    """Features of the first level, times its multiple."""
    num_res_blocks: int
    """Residual blocks of each level on the way down."""
    attention_resolutions: tuple[int, ...]
    """Factors by which a map with attention is smaller than the image."""
    channel_mult: tuple[int | float, ...] = (1, 2, 4, 8)
    """Features of each level, as a multiple of `model_channels`."""
    num_heads: int = 1
    """Attention heads."""
    num_head_channels: int = -1
    """Features of a head, which then say how many there are; -1: `num_heads` does."""
    num_heads_upsample: int = -1
    """Heads on the way up; -1: as elsewhere."""
    conv_resample: bool = True
    """Whether changes of size without residual blocks are learned."""
    resblock_updown: bool = False
    """Whether the size changes in residual blocks."""

    def levels(self, up: bool = False) -> tuple[Level, ...]:
        """Levels on the way down, or up, in the order of the way."""
        change: Change = "residual" if self.resblock_updown else "conv" if self.conv_resample else "mean"
        heads = self.num_heads_upsample if up and self.num_heads_upsample > 0 else self.num_heads
        found = []
        for i, multiple in enumerate(self.channel_mult):
            channels = int(multiple * self.model_channels)
            reads = "itself" if 2**i in self.attention_resolutions else "nothing"
            number = self._heads(channels, heads) if reads == "itself" else 1
            found.append(Level(channels, self.num_res_blocks + up, reads, number, change=change))
        return tuple(found[::-1] if up else found)

    def middle(self) -> Level:
        """The middle, which always has attention."""
        channels = int(self.channel_mult[-1] * self.model_channels)
        return Level(channels, 2, "itself", self._heads(channels, self.num_heads))

    def _heads(self, channels: int, heads: int) -> int:
        return heads if self.num_head_channels == -1 else channels // self.num_head_channels


def adm_unet(adm: Adm, scale_shift: bool = False, groups: int = 32) -> UNet:
    """ADM's U-Net."""
    return UNet(
        down=adm.levels(), middle=adm.middle(), up=adm.levels(up=True), groups=groups, scale_shift=scale_shift,
        time_features=adm.model_channels,
    )  # fmt: skip


RELEASED: dict[int, Adm] = {
    64: Adm(192, 3, (2, 4, 8), (1, 2, 3, 4), num_head_channels=64, resblock_updown=True),
    128: Adm(256, 2, (4, 8, 16), (1, 1, 2, 3, 4), num_heads=4, resblock_updown=True),
    256: Adm(256, 2, (8, 16, 32), (1, 1, 2, 2, 4, 4), num_head_channels=64, resblock_updown=True),
    512: Adm(256, 2, (16, 32, 64), (0.5, 1, 1, 2, 2, 4, 4), num_head_channels=64, resblock_updown=True),
}
"""Sizes of the released models, by the side of their images; weights of 64 px have the order "kinds"."""


class AttentionPool(nn.Module):
    """Attention of the mean of a map to the map, then a matrix."""

    features: int
    heads: int
    attention: choice.Attention = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        """The features."""
        d, e = x.shape[-1], x.shape[-1] // self.heads
        x = x.reshape(len(x), -1, d)
        x = jnp.concatenate([jnp.mean(x, axis=1, keepdims=True), x], axis=1)
        x = x + declare(self, "positions", normal(d**-0.5), x.shape[1:], (None, "embed"))
        shape = (d, self.heads, 3, e)
        kernel = declare(self, "qkv_kernel", xavier(d, 3 * d), shape, ("embed", "heads", None, "head_dim"))
        bias = declare(self, "qkv_bias", zeros, shape[1:], ("heads", None, "head_dim"))
        q, k, v = choice.modulated_qkv(x, None, QkvWeights(kernel, bias), norm="none", attention=self.attention)
        a, _ = choice.attend(q[:, :1], k, v, attention=self.attention)
        return Dense(self.features, ("embed", None), name="out")(a.reshape(len(x), d))


class Classifier(nn.Module):
    """Logits of the class of a noised image."""

    classes: int
    """Number of classes."""
    adm: Adm
    """Sizes of the network."""
    pool: Pool = "adaptive"
    """The head."""
    scale_shift: bool = False
    """As in the U-Net."""
    groups: int = 32
    """Groups of channels in each norm."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], t: Float[Array, "b"]) -> Float[Array, "b k"]:
        """Logits of each class for images at times t (`Process.network_time`)."""
        style, features = Style(self.groups, scale_shift=self.scale_shift), self.adm.model_channels
        emb = Embedding(features, 4 * features, name="embedding")(t)
        shared, levels = Shared(style, "dots", emb), self.adm.levels()
        x = settle(conv(levels[0].channels, "conv_in", style)(x))
        x, kept, _ = descend(x, levels, shared)
        x = middle(x, self.adm.middle(), shared, 1.0, None)
        if self.pool.startswith("spatial"):
            h = jnp.concatenate([jnp.mean(one, axis=(1, 2)) for one in (*kept, x)], axis=-1)
            h = Dense(HIDDEN, (None, "mlp"), name="pool_fc1")(h)
            if self.pool == "spatial":
                h = jax.nn.relu(h)
            else:
                h = jax.nn.silu(GroupNorm(self.groups, axis="mlp", name="pool_norm")(h[:, None])[:, 0])
            return Dense(self.classes, ("mlp", None), name="pool_fc2")(h)
        h = jax.nn.silu(GroupNorm(self.groups, axis="embed", name="norm_out")(x))
        if self.pool == "adaptive":
            return Dense(self.classes, ("embed", None), zeros, name="pool_fc")(jnp.mean(h, axis=(1, 2)))
        heads = h.shape[-1] // self.adm.num_head_channels
        return AttentionPool(self.classes, heads, name="pool")(h)
