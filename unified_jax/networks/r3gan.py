r"""R3GAN (Huang et al. 2024, arXiv:2501.05441): a generator and the discriminator that mirrors it, without norms.

    block       y = x + W_3 a(W_2 * a(W_1 x));     a(x) = leaky(x + b), slope 0.2;     W_2: 3 x 3 in groups
    generator   z, E c -> basis ⊙ (W z) on the first grid -> blocks -> (1 x 1 if widths differ, up) -> .. -> 1 x 1
    critic      1 x 1 -> blocks -> (down, 1 x 1 if widths differ) -> .. -> blocks -> D(x);   with classes <D(x), E c>

Resampling is bilinear: the filter [1, 2, 1] convolved with [1, 1], that is [1, 3, 3, 1] / 8 along each axis. W_1 and
W_2 start with standard deviation sqrt(2 / 1.04) n^(-1/4) / sqrt(fan in), n blocks in the network, W_3 at 0 (Fixup,
Zhang et al. 2019): each block is the identity at the start.
"""

import itertools
import math
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.kernels.choice import device
from unified_jax.kernels.elementwise import add_bias
from unified_jax.kernels.product import einsum, matmul
from unified_jax.layers.conv import convolve
from unified_jax.layers.init import declare, normal, zeros
from unified_jax.sharding import constrain

SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))

Taps = tuple[float, ...]


def lowpass(taps: Taps) -> np.ndarray:
    """The taps of one axis for a factor of two: `taps` convolved with [1, 1], of sum 1."""
    both = np.convolve(np.asarray(taps, np.float64), [1.0, 1.0])
    return both / both.sum()


def halve(x: Float[Array, "b h w c"], taps: Taps) -> Float[Array, "b r s c"]:
    """Filtered, then every second row and column."""
    return _along(_along(x, 1, taps, _fewer), 2, taps, _fewer)


def double(x: Float[Array, "b h w c"], taps: Taps) -> Float[Array, "b r s c"]:
    """Zeros between rows and columns, then filtered; the mean is kept."""
    return _along(_along(x, 1, taps, _more), 2, taps, _more)


def _along(x: Array, axis: int, taps: Taps, resample: Callable[..., Array]) -> Array:
    return resample(x, axis, lowpass(taps), len(taps) // 2)


def _fewer(x: Array, axis: int, kernel: np.ndarray, radius: int) -> Array:
    size = x.shape[axis]
    x = jnp.pad(x, [(radius, radius) if a == axis else (0, 0) for a in range(x.ndim)])
    parts = [jax.lax.slice_in_dim(x, k, k + size - 1, 2, axis) for k in range(len(kernel))]
    return _weighted(parts, kernel)


def _more(x: Array, axis: int, kernel: np.ndarray, radius: int) -> Array:
    size, last = x.shape[axis], len(kernel) - 1
    around = [(last - radius, radius + 1, 1) if a == axis else (0, 0, 0) for a in range(x.ndim)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), around)
    parts = [jax.lax.slice_in_dim(x, last - k, last - k + 2 * size, 1, axis) for k in range(len(kernel))]
    return _weighted(parts, 2 * kernel)


def _weighted(parts: list[Array], kernel: np.ndarray) -> Array:
    total = parts[0] * float(kernel[0])
    for part, weight in zip(parts[1:], kernel[1:], strict=True):
        total = total + part * float(weight)
    return total


def grouped(x: Float[Array, "b h w c"], kernel: Float[Array, "r s i k"], groups: int) -> Float[Array, "b h w k"]:
    """The convolution in groups of channels that keeps the sizes.

    On a CPU it is a sum of matrix products over the taps: the compiler's own gradient of a convolution in groups takes
    ten to thirty times as long.
    """
    (rows, columns, i, k), (b, h, w, _) = kernel.shape, x.shape
    pads = ((rows // 2, rows // 2), (columns // 2, columns // 2))
    if device()[0] != "cpu":
        return convolve(x, kernel, (1, 1), pads, groups)
    parts = jnp.pad(jnp.moveaxis(x.reshape(b, h, w, groups, i), 3, 0), ((0, 0), (0, 0), *pads, (0, 0)))
    each = jnp.moveaxis(kernel.reshape(rows, columns, i, groups, k // groups), 3, 0)
    total = jnp.zeros((), x.dtype)
    for r, s in itertools.product(range(rows), range(columns)):
        seen = parts[:, :, r : r + h, s : s + w].reshape(groups, b * h * w, i)
        total = total + einsum("gni,gik->gnk", seen, each[:, r, s])
    return jnp.moveaxis(total.reshape(groups, b, h, w, k // groups), 0, 3).reshape(b, h, w, k)


class Point(nn.Module):
    """A linear map of the last axis without bias, N(0, gain^2 / inputs)."""

    features: int
    gain: float = 1.0
    map: bool = True
    """Whether it is a 1 x 1 convolution, by the shape of its kernel."""
    axes: tuple[str | None, str | None] = (None, "embed")
    """Logical axes of the input's channels and of the features."""

    @nn.compact
    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... k"]:
        """`[..., c]` to `[..., features]`."""
        c = x.shape[-1]
        sizes = (1, 1) if self.map else ()
        init, axes = normal(self.gain / math.sqrt(c)), ((None,) * len(sizes) + self.axes)
        kernel = declare(self, "kernel", init, (*sizes, c, self.features), axes).reshape(c, self.features)
        return matmul(x, kernel.astype(x.dtype))


class Block(nn.Module):
    """An inverted residual block."""

    groups: int
    expansion: int
    size: int
    blocks: int
    """Blocks in the network, by which the initial weights are scaled."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """x plus what the block adds."""
        c, gain = x.shape[-1], GAIN * self.blocks**-0.25
        wide = c * self.expansion
        y = self._active(Point(wide, gain, axes=("embed", "mlp"), name="in")(x), "in_bias")
        shape = (self.size, self.size, wide // self.groups, wide)
        init = normal(gain / math.sqrt(math.prod(shape[:-1])))
        kernel = declare(self, "mix_kernel", init, shape, (None, None, None, "mlp")).astype(x.dtype)
        y = self._active(grouped(y, kernel, self.groups), "mix_bias")
        return constrain(x + Point(c, 0.0, axes=("mlp", "embed"), name="out")(y), "batch", None, None, "channels")

    def _active(self, y: Array, name: str) -> Array:
        bias = declare(self, name, zeros, (y.shape[-1],), ("mlp",))
        return nn.leaky_relu(add_bias(y, bias), SLOPE)


class Side(nn.Module):
    """What both networks are made of; `widths`, `groups` and `blocks` are those of the stages, in its own order."""

    widths: tuple[int, ...] = (768, 768, 768, 768)
    """Channels of each stage."""
    groups: tuple[int, ...] = (96, 96, 96, 96)
    """Groups of the 3 x 3 convolutions of each stage."""
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Blocks of each stage."""
    expansion: int = 2
    """Channels inside a block, over those outside."""
    size: int = 3
    """Size of the grouped convolutions, odd."""
    taps: Taps = (1.0, 2.0, 1.0)
    """The resampling filter, an odd number of taps."""
    classes: int = 0
    """Length of the condition vector; 0: unconditional."""
    embedding: int = 0
    """Width of its embedding."""
    channels: int = 3
    """Channels of the images."""
    base: int = 4
    """Side of the coarsest grid."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.widths) == len(self.groups) == len(self.blocks) >= 1:
            raise ValueError(f"R3GAN's stages need widths, groups and blocks each, found {self.widths}, {self.groups} "
                             f"and {self.blocks}.")  # fmt: skip
        for width, groups in zip(self.widths, self.groups, strict=True):
            if width * self.expansion % groups:
                raise ValueError(f"{groups} groups do not divide the {width * self.expansion} channels of a block.")
        if self.size % 2 == 0 or len(self.taps) % 2 == 0:
            raise ValueError(f"R3GAN's size and number of taps are odd, found {self.size} and {len(self.taps)}.")
        if bool(self.classes) != bool(self.embedding):
            raise ValueError(f"classes and embedding go together, found {self.classes} and {self.embedding}.")

    @property
    def side(self) -> int:
        """Side of the images in pixels."""
        return self.base * 2 ** (len(self.widths) - 1)

    def stage(self, x: Float[Array, "b h w c"], i: int) -> Float[Array, "b h w c"]:
        """The blocks of stage i."""
        for j in range(self.blocks[i]):
            block = Block(self.groups[i], self.expansion, self.size, sum(self.blocks), name=f"block_{i}_{j}")
            x = block(x)
        return x


class R3ganGenerator(Side):
    """Noise, and one condition vector, to images; the coarsest stage first."""

    latent: int = 64
    """Numbers of noise."""

    @nn.compact
    def __call__(self, z: Float[Array, "b l"], c: Float[Array, "b k"] | None = None) -> Float[Array, "b h w o"]:
        """`[b, latent]`, and `[b, classes]` if there are any, to `[b, side, side, channels]`, float32."""
        if self.classes:
            assert c is not None, "this generator is conditional"
            z = jnp.concatenate([z, Point(self.embedding, map=False, axes=(None, "patch"), name="embed")(c)], axis=-1)
        width = self.widths[0]
        basis = declare(self, "basis", normal(1.0), (width, self.base, self.base), ("embed", None, None))
        scales = Point(width, map=False, name="start")(z)
        x = (jnp.moveaxis(basis, 0, -1) * scales[:, None, None]).astype(self.dtype)
        for i, width in enumerate(self.widths):
            if i:
                x = x if width == x.shape[-1] else Point(width, name=f"up_{i}")(x)
                x = double(x, self.taps)
            x = self.stage(x, i)
        return Point(self.channels, axes=("embed", "patch"), name="picture")(x).astype(jnp.float32)


class R3ganDiscriminator(Side):
    """Images, and one condition vector, to logits; the finest stage first."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w o"], c: Float[Array, "b k"] | None = None) -> Float[Array, "b"]:
        """`[b, side, side, channels]`, and `[b, classes]` if there are any, to logits, float32."""
        x = Point(self.widths[0], name="picture")(x.astype(self.dtype))
        for i in range(len(self.widths)):
            x = self.stage(x, i)
            if i + 1 < len(self.widths):
                x, width = halve(x, self.taps), self.widths[i + 1]
                x = x if width == x.shape[-1] else Point(width, name=f"down_{i}")(x)
        x, width = x.astype(jnp.float32), x.shape[-1]
        shape = (self.base, self.base, 1, width)
        basis = declare(self, "basis", normal(1 / self.base), shape, (None, None, None, "embed"))
        x = jnp.sum(x * basis[:, :, 0], axis=(1, 2))
        x = Point(self.embedding or 1, map=False, axes=("embed", "patch"), name="end")(x)
        if not self.classes:
            return x[:, 0]
        assert c is not None, "this discriminator is conditional"
        embed = Point(self.embedding, self.embedding**-0.5, map=False, axes=(None, "patch"), name="embed")
        return jnp.sum(x * embed(c), axis=-1)
