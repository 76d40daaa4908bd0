r"""Encoder and decoder of latent diffusion's autoencoders (Rombach et al. 2022): levels of residual blocks.

    encoder   conv -> levels, each but the last ending in a halving -> block, attention, block -> norm, SiLU, conv
    decoder   conv -> block, attention, block -> levels, each but the last ending in a doubling -> norm, SiLU, conv

A decoder's level has one block more than the encoder's of the same resolution. Both can be run in two parts, `head` and
`tail`, of which one is local (no attention) and takes a `Window`: see `tiling`.
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.layers.conv import Conv
from unified_jax.networks.autoencoders.blocks import CODE_GROUPS, Level, Middle, norm
from unified_jax.networks.autoencoders.window import Window, masked


@dataclass(frozen=True)
class Levels:
    """Sizes of an encoder and its decoder."""

    channels: int = 3
    """Channels of the data."""
    out_channels: int = 3
    """Channels of the decoder's output."""
    latents: int = 4
    """Channels of the latent."""
    widths: tuple[int, ...] = (128, 256, 512, 512)
    """Features of each level, from the data's resolution; each but the last halves it."""
    blocks: int = 2
    """Residual blocks of an encoder's level; a decoder's has one more."""
    encoder_attention: tuple[bool, ...] = ()
    """For each level whether attention follows its blocks; (): nowhere."""
    decoder_attention: tuple[bool, ...] = ()
    """The same for the decoder, in the order of `widths`."""
    middle_attention: bool = True
    """Whether there is attention between the two blocks at the lowest resolution."""
    groups: int = 32
    """Groups of every norm; must divide every width."""
    coded: bool = False
    """Whether the code modulates the decoder's norms (MoVQ)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, the residual stream, norms and softmax stay float32."""
    attention: Attention = "auto"
    """Implementation of attention."""

    def __post_init__(self) -> None:
        if not self.widths or min(self.channels, self.out_channels, self.latents, self.blocks, *self.widths) < 1:
            raise ValueError("Levels: channels, out_channels, latents, blocks and every width must be at least 1.")
        for name in ("encoder_attention", "decoder_attention"):
            if getattr(self, name) and len(getattr(self, name)) != len(self.widths):
                raise ValueError(f"Levels.{name} names {len(getattr(self, name))} of {len(self.widths)} levels.")
        groups = {self.groups} | ({CODE_GROUPS} if self.coded else set())
        odd = [width for width in self.widths if any(width % g for g in groups)]
        if self.groups < 1 or odd:
            raise ValueError(f"Levels: the norms' {sorted(groups)} groups do not divide the widths {odd}.")
        check_attention(self.attention)

    @property
    def factor(self) -> int:
        """Positions of the data over those of the latent, along an axis."""
        return 2 ** (len(self.widths) - 1)

    def attends(self, decoder: bool) -> tuple[bool, ...]:
        """For each level whether it has attention."""
        given = self.decoder_attention if decoder else self.encoder_attention
        return given or (False,) * len(self.widths)


class Encoder(nn.Module):
    """Data to the features of a latent."""

    sizes: Levels
    features: int
    """Channels of the output."""

    def setup(self) -> None:
        """All layers."""
        s = self.sizes
        dtype, last = jnp.dtype(s.dtype), len(s.widths) - 1
        self.conv_in = Conv(s.widths[0], dtype=dtype)
        self.level = [
            Level(width, s.blocks, s.groups, attends, "none" if i == last else "down", dtype, s.attention)
            for i, (width, attends) in enumerate(zip(s.widths, s.attends(False), strict=True))
        ]
        self.middle = Middle(s.widths[-1], s.groups, s.middle_attention, dtype, s.attention)
        self.conv_out = Conv(self.features, dtype=dtype)

    def head(self, x: Float[Array, "b h w c"], stop: int, window: Window | None = None) -> Float[Array, "b m n d"]:
        """The features after the first `stop` levels."""
        h = self.conv_in(masked(x, window)).astype(jnp.float32)
        for level in self.level[:stop]:
            h = level(h, None, window)
            window = None if window is None else window.down()
        return h

    @nn.compact
    def tail(self, h: Float[Array, "b h w d"], start: int) -> Float[Array, "b m n f"]:
        """The output from the features after `start` levels."""
        for level in self.level[start:]:
            h = level(h)
        h = jax.nn.silu(norm(self.middle(h), self.sizes.groups, "norm_out", None, None))
        return self.conv_out(h).astype(jnp.float32)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b m n f"]:
        """The features of the latent, float32."""
        return self.tail(self.head(x, 0), 0)


class Decoder(nn.Module):
    """A latent to data. Level 0 has the lowest resolution."""

    sizes: Levels

    def setup(self) -> None:
        """All layers."""
        s = self.sizes
        dtype, last = jnp.dtype(s.dtype), len(s.widths) - 1
        self.conv_in = Conv(s.widths[-1], dtype=dtype)
        self.middle = Middle(s.widths[-1], s.groups, s.middle_attention, dtype, s.attention)
        self.level = [
            Level(width, s.blocks + 1, s.groups, attends, "none" if i == last else "up", dtype, s.attention)
            for i, (width, attends) in enumerate(zip(s.widths[::-1], s.attends(True)[::-1], strict=True))
        ]
        self.conv_out = Conv(s.out_channels, dtype=dtype)

    def head(self, z: Float[Array, "b h w c"], stop: int, code: Array | None = None) -> Float[Array, "b m n d"]:
        """The features after the middle and the first `stop` levels."""
        h = self.middle(self.conv_in(z).astype(jnp.float32), code)
        for level in self.level[:stop]:
            h = level(h, code)
        return h

    @nn.compact
    def tail(
        self, h: Float[Array, "b h w d"], start: int, stop: int, code: Array | None = None, window: Window | None = None
    ) -> Float[Array, "b m n f"]:
        """The features after `stop` levels from those after `start`; after all of them, the output."""
        for level in self.level[start:stop]:
            h = level(h, code, window)
            if window is not None and level.resample == "up":
                window = window.up()
        if stop < len(self.level):
            return h
        h = jax.nn.silu(norm(h, self.sizes.groups, "norm_out", code, window))
        return self.conv_out(masked(h, window)).astype(jnp.float32)

    def __call__(self, z: Float[Array, "b h w c"], code: Array | None = None) -> Float[Array, "b m n f"]:
        """The data, float32."""
        return self.tail(self.head(z, 0, code), 0, len(self.level), code)
