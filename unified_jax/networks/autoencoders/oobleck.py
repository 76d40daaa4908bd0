r"""Oobleck, Stable Audio's autoencoder of waveforms (Evans et al. 2024): convolutions over time.

    unit     x + conv_1(snake(conv_7(snake(x))))                     dilations 1, 3, 9 in a row
    encoder  conv_7 -> levels of three units, snake, conv of size 2s and stride s -> snake -> conv_3
    decoder  conv_7 -> levels of snake, transposed conv of size 2s and stride s, three units -> snake -> conv_7
    snake    x + sin(e^a x)^2 / (e^b + 1e-9)                         a, b for each channel
    latent   mean and s: std = softplus(s) + 1e-4

Every kernel is g v / |v|, with |v| over all but its first axis in torch's order (weight norm): the output channel, of a
transposed convolution the input channel.
"""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from unified_jax.kernels.elementwise import add_bias
from unified_jax.layers.conv import convolve
from unified_jax.layers.init import declare, xavier, zeros
from unified_jax.networks.autoencoders.moments import Moments
from unified_jax.sharding import constrain

DILATIONS = (1, 3, 9)


def snake(module: nn.Module, name: str, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
    """The activation `name` of the calling module, float32."""
    x, c = x.astype(jnp.float32), (x.shape[-1],)
    alpha = declare(module, f"{name}_alpha", zeros, c, ("patch",))
    beta = declare(module, f"{name}_beta", zeros, c, ("patch",))
    return x + jnp.square(jnp.sin(jnp.exp(alpha) * x)) / (jnp.exp(beta) + 1e-9)


class NormedConv(nn.Module):
    """A convolution over time whose kernel is a gain and a direction."""

    features: int
    size: int
    stride: int = 1
    dilation: int = 1
    transposed: bool = False
    bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b m d"]:
        """`[b, n, c]` to `[b, n / stride, features]`, transposed to `[b, n stride, features]`."""
        c = x.shape[-1]
        shape = (self.size, c, self.features)
        kernel = declare(self, "kernel", xavier(self.size * c, self.features), shape, (None, None, "patch"))
        kept = (1,) if self.transposed else (2,)
        length = jnp.sqrt(jnp.sum(jnp.square(kernel), axis=[i for i in range(3) if i not in kept], keepdims=True))
        gain = declare(self, "gain", lambda key, shape, dtype: jnp.ones(shape, dtype), (shape[kept[0]],), ("patch",))
        kernel = (kernel / length * (gain[:, None] if self.transposed else gain)).astype(self.dtype)
        y = self._product(x.astype(self.dtype), kernel)
        if self.bias:
            y = add_bias(y, declare(self, "bias", zeros, (self.features,), ("patch",)))
        return y

    def _product(self, x: Array, kernel: Array) -> Array:
        around = math.ceil(self.stride / 2) if self.stride > 1 else (self.size - 1) * self.dilation // 2
        if not self.transposed:
            return convolve(x, kernel, (self.stride,), ((around, around),), dilation=(self.dilation,))
        # Zeros between the positions, then a plain convolution with the kernel turned round.
        b, n, c = x.shape
        spread = jnp.zeros((b, n, self.stride, c), x.dtype).at[:, :, 0].set(x).reshape(b, n * self.stride, c)
        spread = spread[:, : (n - 1) * self.stride + 1]
        pad = self.size - 1 - around
        return convolve(spread, kernel[::-1], (1,), ((pad, pad),))


class Unit(nn.Module):
    """Two convolutions beside the identity."""

    dilation: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """The output, float32."""
        c = x.shape[-1]
        h = NormedConv(c, 7, dilation=self.dilation, dtype=self.dtype, name="conv1")(snake(self, "snake1", x))
        h = NormedConv(c, 1, dtype=self.dtype, name="conv2")(snake(self, "snake2", h))
        return x + h.astype(jnp.float32)


class Level(nn.Module):
    """Three units, after a transposed convolution (`up`) or before a strided one."""

    features: int
    stride: int
    up: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b m d"]:
        """The output, float32."""
        size = 2 * self.stride
        if self.up:
            conv = NormedConv(self.features, size, self.stride, transposed=True, dtype=self.dtype, name="resample")
            x = conv(snake(self, "snake1", x)).astype(jnp.float32)
        for i, dilation in enumerate(DILATIONS):
            x = Unit(dilation, self.dtype, name=f"unit_{i}")(x)
        if not self.up:
            conv = NormedConv(self.features, size, self.stride, dtype=self.dtype, name="resample")
            x = conv(snake(self, "snake1", x)).astype(jnp.float32)
        return constrain(x, "batch", None, None)


class OobleckEncoder(nn.Module):
    """Waveforms to features of a latent."""

    width: int
    multiples: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b m f"]:
        """The features, float32: as many as the width."""
        h = NormedConv(self.width, 7, dtype=self.dtype, name="conv_in")(x).astype(jnp.float32)
        for i, (stride, multiple) in enumerate(zip(self.strides, self.multiples, strict=True)):
            h = Level(self.width * multiple, stride, False, self.dtype, name=f"level_{i}")(h)
        conv = NormedConv(self.width, 3, dtype=self.dtype, name="conv_out")
        return conv(snake(self, "snake_out", h)).astype(jnp.float32)


class OobleckDecoder(nn.Module):
    """Latents to waveforms."""

    channels: int
    width: int
    multiples: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, z: Float[Array, "b m z"]) -> Float[Array, "b n c"]:
        """The waveform, float32."""
        h = NormedConv(self.width * self.multiples[-1], 7, dtype=self.dtype, name="conv_in")(z).astype(jnp.float32)
        widths = (self.width, *(self.width * multiple for multiple in self.multiples[:-1]))[::-1]
        for i, (stride, width) in enumerate(zip(self.strides[::-1], widths, strict=True)):
            h = Level(width, stride, True, self.dtype, name=f"level_{i}")(h)
        conv = NormedConv(self.channels, 7, bias=False, dtype=self.dtype, name="conv_out")
        return conv(snake(self, "snake_out", h)).astype(jnp.float32)


class Oobleck(nn.Module):
    """Waveforms `[b, n, channels]` to Gaussians `[b, n / factor, latents]` and back."""

    channels: int = 2
    """Channels of the sound."""
    latents: int = 64
    """Channels of the latent; the encoder's width is twice as many."""
    width: int = 128
    """Features of the decoder at the sound's rate."""
    encoder_width: int = 128
    """Features of the encoder at the sound's rate, and of its output: means and scales."""
    multiples: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Features after each level over those at the sound's rate."""
    strides: tuple[int, ...] = (2, 4, 4, 8, 8)
    """Shortening of each level."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, the residual stream and snakes stay float32."""

    def __post_init__(self) -> None:
        if len(self.multiples) != len(self.strides) or not self.strides:
            raise ValueError(f"Oobleck has {len(self.multiples)} multiples and {len(self.strides)} strides.")
        if self.encoder_width != 2 * self.latents:
            raise ValueError(f"Oobleck.encoder_width {self.encoder_width} must be twice the {self.latents} latents.")
        super().__post_init__()

    def setup(self) -> None:
        """Both networks."""
        dtype = jnp.dtype(self.dtype)
        self.encoder = OobleckEncoder(self.encoder_width, self.multiples, self.strides, dtype)
        self.decoder = OobleckDecoder(self.channels, self.width, self.multiples, self.strides, dtype)

    def encode(self, x: Float[Array, "b n c"]) -> Moments:
        """The Gaussians of the latent."""
        mean, scale = jnp.split(self.encoder(x), 2, axis=-1)
        return Moments(mean, 2 * jnp.log(jax.nn.softplus(scale) + 1e-4))

    def decode(self, z: Float[Array, "b m z"]) -> Float[Array, "b n c"]:
        """The sound of a latent."""
        return self.decoder(z)

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b m c"]:
        """The reconstruction from the mean; as long as x if the strides are even and their product divides it."""
        return self.decode(self.encode(x).mean)
