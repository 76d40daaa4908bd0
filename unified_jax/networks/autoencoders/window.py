"""Where a tile lies in its picture: what a convolution and a norm must know of the whole.

A tile is a part of the picture with a margin around it. Positions beyond the picture's edge are set to zero before each
convolution, as the padding of the whole picture is. So every position of the tile inside its margin has the value that
it has in the whole picture, as long as the margin is at least as wide as the layers before it reach.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.layers.conv import at_channels, group_mean


class Window(NamedTuple):
    """One tile for each row of a batch; positions are those of the current level."""

    top: Int[Array, "b"]
    """Row of the picture at which the tile starts; below 0 where the margin is beyond the edge."""
    left: Int[Array, "b"]
    """The same for columns."""
    size: tuple[int, int]
    """Sizes of the whole picture."""
    margin: int
    """Positions around the part that is wanted."""

    def down(self) -> "Window":
        """The window after a convolution of stride 2."""
        return Window(self.top // 2, self.left // 2, (self.size[0] // 2, self.size[1] // 2), self.margin // 2)

    def up(self) -> "Window":
        """The window after each position was repeated."""
        return Window(self.top * 2, self.left * 2, (self.size[0] * 2, self.size[1] * 2), self.margin * 2)

    def inside(self, shape: tuple[int, int]) -> Float[Array, "b h w 1"]:
        """1 for positions of a tile of this shape that belong to the picture, 0 for others."""

        def along(start: Array, length: int, size: int) -> Array:
            at = start[:, None] + jnp.arange(length)
            return (at >= 0) & (at < size)

        rows, columns = along(self.top, shape[0], self.size[0]), along(self.left, shape[1], self.size[1])
        return (rows[:, :, None, None] & columns[:, None, :, None]).astype(jnp.float32)


def masked(x: Float[Array, "b h w c"], window: Window | None) -> Float[Array, "b h w c"]:
    """x with zeros beyond the picture's edge; x itself without a window."""
    return x if window is None else x * window.inside((x.shape[1], x.shape[2])).astype(x.dtype)


def sums(grouped: Float[Array, "b h w g k"], window: Window) -> Float[Array, "b g 3"]:
    """(number, mean, sum of squared distances from it) of each group over the tile without its margin."""
    rows, columns = (slice(window.margin, size - window.margin) for size in grouped.shape[1:3])
    there = window.inside((grouped.shape[1], grouped.shape[2]))[:, rows, columns, :, None]
    grouped = grouped[:, rows, columns]
    number = jnp.sum(there, axis=(1, 2, 3, 4))[:, None] * grouped.shape[-1]
    number = jnp.broadcast_to(number, (len(grouped), grouped.shape[3]))
    mean = jnp.sum(grouped * there, axis=(1, 2, 4)) / jnp.maximum(number, 1)
    apart = jnp.square(grouped - mean[:, None, None, :, None]) * there
    return jnp.stack([number, mean, jnp.sum(apart, axis=(1, 2, 4))], axis=-1)


def pooled(parts: Float[Array, "t b g 3"]) -> Float[Array, "b g 2"]:
    """(mean, variance) over all tiles, from the `sums` of each (Chan et al. 1983)."""
    number, mean, apart = parts[..., 0], parts[..., 1], parts[..., 2]
    total = jnp.sum(number, axis=0)
    whole = jnp.sum(number * mean, axis=0) / total
    apart = jnp.sum(apart + number * jnp.square(mean - whole), axis=0)
    return jnp.stack([whole, apart / total], axis=-1)


def moments(x: Float[Array, "b h w c"], groups: int) -> Float[Array, "b g 2"]:
    """(mean, variance) of each group over the whole array."""
    mean = group_mean(x, groups)
    return jnp.stack([mean, group_mean(jnp.square(x - at_channels(mean, x)), groups)], axis=-1)


def normalised(
    x: Float[Array, "b h w c"], found: Float[Array, "b g 2"], gain: Float[Array, "c"], eps: float
) -> Float[Array, "b h w c"]:
    """gain (x - mean) / sqrt(variance + eps)."""
    mean, variance = found[..., 0], found[..., 1]
    return (x - at_channels(mean, x)) * (at_channels(jax.lax.rsqrt(variance + eps), x) * gain)
