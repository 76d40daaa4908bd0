r"""DC-AE, the deep compression autoencoder (Chen et al. 2024, arXiv 2410.10733): f32 to f128.

    down  unshuffle(conv(x)) + mean over groups of channels of unshuffle(x)
    up    shuffle(conv(x)) + shuffle(channels of x repeated)
    res   x + norm(conv(activation(conv(x))))
    vit   x + norm(W_o linear attention(x)), then x + norm(W_2 (a silu(g))) with a, g = depthwise conv(silu(W_1 x))

Shuffling moves positions into channels and back: channel c of position (2i + u, 2j + v) is channel 4c + 2u + v. Linear
attention is sum_m v_m (relu k_m . relu q_n) over sum_m relu k_m . relu q_n; its queries, keys and values are also
taken from depthwise convolutions of them (`scales`). There is no noise: a latent is a point. A level without blocks
is passed by: the first convolution halves the sizes there.
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from unified_jax.layers.conv import Conv
from unified_jax.networks.autoencoders.blocks import repeated
from unified_jax.networks.autoencoders.dc_blocks import (
    ACTIVATIONS,
    Activation,
    EfficientVit,
    Norm,
    NormKind,
    ResidualBlock,
    shuffled,
    unshuffled,
)
from unified_jax.networks.autoencoders.moments import Moments
from unified_jax.sharding import constrain

Kind = Literal["res", "vit"]


@dataclass(frozen=True)
class Side:
    """Sizes of the encoder or of the decoder, from the data's resolution; each level but the last halves it."""

    widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    """Features of each level."""
    depths: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    """Blocks of each level."""
    kinds: tuple[Kind, ...] = ("res", "res", "res", "vit", "vit", "vit")
    """Kind of each level's blocks."""
    scales: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
    """Sizes of the depthwise convolutions of each level's attention."""
    norms: tuple[NormKind, ...] = ("rms",) * 6
    """Norm of each level's blocks; a batch norm uses stored statistics."""
    activations: tuple[Activation, ...] = ("silu",) * 6
    """Activation of each level's residual blocks."""

    def __post_init__(self) -> None:
        for name in ("depths", "kinds", "scales", "norms", "activations"):
            if len(getattr(self, name)) != len(self.widths):
                raise ValueError(f"Side.{name} is of {len(getattr(self, name))} levels, widths of {len(self.widths)}.")
        empty = [i for i, depth in enumerate(self.depths) if depth < 1 and (i > 0 or depth < 0)]
        if len(self.widths) < 2 or empty:
            raise ValueError(f"Side needs two levels or more, and blocks in all but the first; found {self.depths}.")

    def block(self, level: int, head_dim: int, dtype: DTypeLike, name: str) -> nn.Module:
        """A block of this level."""
        if self.kinds[level] == "vit":
            return EfficientVit(head_dim, self.scales[level], self.norms[level], dtype, name=name)
        return ResidualBlock(self.activations[level], self.norms[level], dtype, name=name)


class Down(nn.Module):
    """Half the sizes."""

    features: int
    shuffle: bool = True
    """Whether positions become channels; else the convolution has stride 2."""
    shortcut: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b m n d"]:
        """`[b, h, w, c]` to `[b, h / 2, w / 2, features]`."""
        if self.shuffle:
            y = unshuffled(Conv(self.features // 4, dtype=self.dtype, name="conv")(x))
        else:
            pads, stride, size = ((1, 1), (1, 1)), (2, 2), (3, 3)
            y = Conv(self.features, stride, size=size, pads=pads, dtype=self.dtype, name="conv")(x)
        y = y.astype(jnp.float32)
        return y + averaged(unshuffled(x), self.features) if self.shortcut else y


class Up(nn.Module):
    """Twice the sizes."""

    features: int
    shuffle: bool = True
    """Whether channels become positions; else positions are repeated before the convolution."""
    shortcut: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b m n d"]:
        """`[b, h, w, c]` to `[b, 2 h, 2 w, features]`."""
        if self.shuffle:
            y = shuffled(Conv(4 * self.features, dtype=self.dtype, name="conv")(x))
        else:
            y = Conv(self.features, dtype=self.dtype, name="conv")(repeated(x, 2))
        y = y.astype(jnp.float32)
        return y + shuffled(jnp.repeat(x, 4 * self.features // x.shape[-1], axis=-1)) if self.shortcut else y


def averaged(x: Float[Array, "b h w c"], features: int) -> Float[Array, "b h w d"]:
    """So many features, each the mean of consecutive channels."""
    return jnp.mean(x.reshape(*x.shape[:3], features, -1), axis=-1)


class DcEncoder(nn.Module):
    """Images to latents."""

    side: Side
    latents: int
    head_dim: int
    shuffle: bool
    shortcut: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b m n z"]:
        """The latent, float32."""
        s, last = self.side, len(self.side.widths) - 1
        if s.depths[0]:
            h = Conv(s.widths[0], dtype=self.dtype, name="conv_in")(x)
        else:
            h = Down(s.widths[1], self.shuffle, shortcut=False, dtype=self.dtype, name="conv_in")(x)
        h = h.astype(jnp.float32)
        for i, depth in enumerate(s.depths):
            for j in range(depth):
                h = s.block(i, self.head_dim, self.dtype, f"level_{i}_block_{j}")(h)
            if i < last and depth:
                h = Down(s.widths[i + 1], self.shuffle, dtype=self.dtype, name=f"level_{i}_down")(h)
            h = constrain(h, "batch", None, None, None)
        y = Conv(self.latents, dtype=self.dtype, name="conv_out")(h).astype(jnp.float32)
        return y + averaged(h, self.latents) if self.shortcut else y


class DcDecoder(nn.Module):
    """Latents to images."""

    side: Side
    channels: int
    head_dim: int
    shuffle: bool
    shortcut: bool
    activation: Activation
    dtype: DTypeLike

    @nn.compact
    def __call__(self, z: Float[Array, "b h w z"]) -> Float[Array, "b m n c"]:
        """The image, float32."""
        s, last = self.side, len(self.side.widths) - 1
        h = Conv(s.widths[-1], dtype=self.dtype, name="conv_in")(z).astype(jnp.float32)
        if self.shortcut:
            h = h + jnp.repeat(z, s.widths[-1] // z.shape[-1], axis=-1)
        for i in reversed(range(len(s.depths))):
            if i < last and s.depths[i]:
                h = Up(s.widths[i], self.shuffle, dtype=self.dtype, name=f"level_{i}_up")(h)
            for j in range(s.depths[i]):
                h = s.block(i, self.head_dim, self.dtype, f"level_{i}_block_{j}")(h)
            h = constrain(h, "batch", None, None, None)
        h = ACTIVATIONS[self.activation](Norm("rms", name="norm_out")(h))
        if s.depths[0]:
            return Conv(self.channels, dtype=self.dtype, name="conv_out")(h).astype(jnp.float32)
        return Up(self.channels, self.shuffle, shortcut=False, dtype=self.dtype, name="conv_out")(h)


class DcAutoencoder(nn.Module):
    """Images to latents and back, NHWC."""

    channels: int = 3
    """Channels of the images."""
    latents: int = 32
    """Channels of the latent."""
    encoder_sizes: Side = Side()
    """Sizes of the encoder."""
    decoder_sizes: Side = Side(depths=(3, 3, 3, 3, 3, 3))
    """Sizes of the decoder."""
    head_dim: int = 32
    """Features of a head of linear attention."""
    unshuffle: bool = True
    """Whether the encoder halves by unshuffling, else by stride."""
    shuffle: bool = True
    """Whether the decoder doubles by shuffling, else by repeating."""
    out_shortcut: bool = True
    """Whether means of the last features are added to the latent."""
    in_shortcut: bool = True
    """Whether the latent, repeated, is added to the first features."""
    out_activation: Activation = "relu"
    """Activation before the decoder's last convolution."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, the residual stream, norms and attention stay float32."""

    def setup(self) -> None:
        """Both networks."""
        dtype = jnp.dtype(self.dtype)
        self.encoder = DcEncoder(
            self.encoder_sizes, self.latents, self.head_dim, self.unshuffle, self.out_shortcut, dtype
        )
        self.decoder = DcDecoder(
            self.decoder_sizes, self.channels, self.head_dim, self.shuffle, self.in_shortcut, self.out_activation, dtype
        )

    def encode(self, x: Float[Array, "b h w c"]) -> Moments:
        """The latent, a point for each."""
        return Moments(self.encoder(x))

    def decode(self, z: Float[Array, "b h w z"]) -> Float[Array, "b m n c"]:
        """The image of a latent."""
        return self.decoder(z)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b m n d"]:
        """The reconstruction."""
        return self.decode(self.encode(x).mean)
