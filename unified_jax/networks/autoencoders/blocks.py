r"""Blocks of the convolutional autoencoders of latent diffusion (Esser et al. 2021, Rombach et al. 2022).

    block      x + conv(SiLU(norm(conv(SiLU(norm(x))))))          1 x 1 convolution of x where the features change
    attention  x + W_o attend(W_q h, W_k h, W_v h), h = norm(x)   one head over all positions
    down       zeros on the right and below, then a convolution of stride 2
    up         each position repeated, then a convolution

The norm is a group norm with eps 1e-6; in the decoders of MoVQ (Zheng et al. 2022) its gain and bias are 1 x 1
convolutions of the code, norm(x) (W_y z + b_y) + W_b z + b_b. A `Window` says that x is a tile of a larger picture.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from unified_jax.kernels.choice import Attention, attend
from unified_jax.layers.conv import Conv
from unified_jax.layers.init import declare, ones, zeros
from unified_jax.layers.mlp import Dense
from unified_jax.networks.autoencoders import window as windows
from unified_jax.networks.autoencoders.window import Window, masked
from unified_jax.sharding import constrain

EPSILON = 1e-6
STATISTICS = "statistics"
"""Collection of the norms' moments over a whole picture, `[b, groups, 2]`, for tiles of it."""
SUMS = "sums"
"""Collection into which the norms write what a tile adds to them (`window.sums`)."""
CODE_GROUPS = 32
"""Groups of a norm that is modulated by the code."""


class GroupNorm(nn.Module):
    """Group norm with gain and bias, float32; of a tile, by the statistics of its picture."""

    groups: int = 32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], window: Window | None = None) -> Float[Array, "b h w c"]:
        """The groups must divide the channels."""
        channels = x.shape[-1]
        h = x.astype(jnp.float32)
        if window is None or not self.has_variable(STATISTICS, "moments"):
            found = windows.moments(h, self.groups)
        else:
            found = self.get_variable(STATISTICS, "moments")
        if window is not None and self.is_mutable_collection(SUMS):
            tile = windows.sums(h.reshape(*h.shape[:3], self.groups, -1), window)
            h, added = jax.lax.optimization_barrier((h, tile))  # so that h is not held for them
            self.put_variable(SUMS, "moments", added)
        gain = declare(self, "gain", ones, (channels,), ("patch",))
        return windows.normalised(h, found, gain, EPSILON) + declare(self, "bias", zeros, (channels,), ("patch",))


class CodeNorm(nn.Module):
    """Group norm whose output is scaled and shifted by the code at each position."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], code: Float[Array, "b m n z"], window: Window | None = None
    ) -> Float[Array, "b h w c"]:
        """The sizes of x are multiples of the code's."""
        h = GroupNorm(CODE_GROUPS, name="norm")(x, window)
        scale = Dense(x.shape[-1], (None, "patch"), name="scale")(code)
        shift = Dense(x.shape[-1], (None, "patch"), name="shift")(code)
        return h * repeated(scale, x.shape[1] // code.shape[1]) + repeated(shift, x.shape[1] // code.shape[1])


def repeated(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b m n c"]:
    """Each position `factor` times along both axes."""
    return jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)


def norm(
    x: Float[Array, "b h w c"], groups: int, name: str, code: Array | None, window: Window | None
) -> Float[Array, "b h w c"]:
    """The norm `name` of the calling module: by the code where there is one."""
    return GroupNorm(groups, name=name)(x, window) if code is None else CodeNorm(name=name)(x, code, window)


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity."""

    features: int
    groups: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], code: Array | None = None, window: Window | None = None
    ) -> Float[Array, "b h w d"]:
        """The output, float32, of the same sizes."""
        h = x
        for i in (1, 2):
            h = jax.nn.silu(norm(h, self.groups, f"norm{i}", code, window))
            h = Conv(self.features, dtype=self.dtype, name=f"conv{i}")(masked(h, window))
        if x.shape[-1] != self.features:
            x = Dense(self.features, (None, "patch"), dtype=self.dtype, name="shortcut")(x)
        return constrain(x.astype(jnp.float32) + h, "batch", None, None, None)


class SpatialAttention(nn.Module):
    """Attention of one head over all positions of a picture."""

    groups: int
    dtype: DTypeLike = jnp.float32
    attention: Attention = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], code: Array | None = None) -> Float[Array, "b h w c"]:
        """Long sequences are attended to in chunks of queries (`kernels.xla`)."""
        b, height, width, c = x.shape
        h = norm(x, self.groups, "norm", code, None).reshape(b, height * width, c)
        q, k, v = (Dense(c, (None, "patch"), dtype=self.dtype, name=name)(h)[:, :, None] for name in "qkv")
        a, _ = attend(q, k, v, attention=self.attention)
        y = Dense(c, (None, "patch"), dtype=self.dtype, name="out")(a[:, :, 0]).reshape(x.shape)
        return constrain(x + y, "batch", None, None, None)


Resample = Literal["none", "down", "up"]


class Level(nn.Module):
    """Blocks of one resolution, with attention after each or none, then the way to the next resolution."""

    features: int
    blocks: int
    groups: int
    attends: bool = False
    resample: Resample = "none"
    dtype: DTypeLike = jnp.float32
    attention: Attention = "auto"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], code: Array | None = None, window: Window | None = None
    ) -> Float[Array, "b m n d"]:
        """The output, at the next resolution."""
        for i in range(self.blocks):
            x = ResidualBlock(self.features, self.groups, self.dtype, name=f"block_{i}")(x, code, window)
            if self.attends:
                x = SpatialAttention(self.groups, self.dtype, self.attention, name=f"attention_{i}")(x, code)
        if self.resample == "none":
            return x
        if self.resample == "up":
            x, window = repeated(x, 2), None if window is None else window.up()
            y = Conv(self.features, dtype=self.dtype, name="resample")(masked(x, window))
        else:
            pads, stride, size = ((0, 1), (0, 1)), (2, 2), (3, 3)
            conv = Conv(self.features, stride, size=size, pads=pads, dtype=self.dtype, name="resample")
            y = conv(masked(x, window))
        return constrain(y.astype(jnp.float32), "batch", None, None, None)


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    features: int
    groups: int
    attends: bool = True
    dtype: DTypeLike = jnp.float32
    attention: Attention = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], code: Array | None = None) -> Float[Array, "b h w c"]:
        """The output, of the same shape."""
        x = ResidualBlock(self.features, self.groups, self.dtype, name="block_0")(x, code)
        if self.attends:
            x = SpatialAttention(self.groups, self.dtype, self.attention, name="attention_0")(x, code)
        return ResidualBlock(self.features, self.groups, self.dtype, name="block_1")(x, code)
