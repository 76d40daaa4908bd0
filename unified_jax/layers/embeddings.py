r"""Embeddings of time, of labels and of positions.

time        sinusoid of 256 features [cos, sin], frequencies 10000^(-i / 128), then Linear, SiLU, Linear (DiT, sec. 3.1)
label       a table with one row per class and usually one more, the null row of classifier-free guidance
positions   sin-cos of integer positions, for any grid: features are divided evenly among the position axes, each part
            [sin, cos] with frequencies 10000^(-i / (d / (2 a))); for images DiT puts the column first, then the row
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from unified_jax.kernels.inputs import Rotary
from unified_jax.layers.form import Form
from unified_jax.layers.init import declare, normal
from unified_jax.layers.mlp import Dense
from unified_jax.modalities.grid import grid_of


def sinusoid(t: Float[Array, "*s"], features: int = 256, shift: float = 0.0) -> Float[Array, "*s d"]:
    """[cos(t w), sin(t w)], w_i = 10000^(-i / (features / 2 - shift)), float32."""
    half = features // 2
    frequencies = jnp.asarray(np.exp(-np.log(10000.0) * np.arange(half) / (half - shift)), jnp.float32)
    angles = t.astype(jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def sincos_positions(positions: Num[Array, "*s a"], features: int) -> Float[Array, "*s d"]:
    """The fixed position embedding; axis a-1 (columns) takes the first features, axis 0 the last.

    Raises ValueError unless `features` is a multiple of 2 a.
    """
    axes = positions.shape[-1]
    if features % (2 * axes):
        raise ValueError(f"sin-cos positions over {axes} axes need a width divisible by {2 * axes}, found {features}.")
    half = features // (2 * axes)
    frequencies = jnp.asarray(10000.0 ** (-np.arange(half) / half), jnp.float32)
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    parts = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return parts[..., ::-1, :].reshape(positions.shape[:-1] + (features,))


def scaled_positions(form: Form, grid: tuple[int, ...]) -> Num[np.ndarray, "n a"]:
    """Positions of the patches, those of images scaled to a grid of (rows, columns): i m / n; (): as they are."""
    places, sizes = form.positions(), grid_of(form.shape[:-1], form.cut)
    if not grid or len(sizes) != len(grid) or tuple(sizes) == tuple(grid):
        return places
    return (places * (np.asarray(grid, np.float64) / np.asarray(sizes))).astype(np.float32)


def rotary_positions(positions: Num[Array, "b n a"], head_dim: int, theta: float = 10000.0) -> Rotary:
    """Angles of rotary positions over several axes: pair j of a head has theta^(-2 j / e) positions[..., j mod a].

    Every axis has high and low frequencies; a token whose axes are equal rotates as with one axis (Su et al. 2021).
    """
    pairs = head_dim // 2
    frequencies = jnp.asarray(theta ** (-2.0 * np.arange(pairs) / head_dim), jnp.float32)
    axis = np.arange(pairs) % positions.shape[-1]
    angles = positions.astype(jnp.float32)[..., axis] * frequencies
    return Rotary(jnp.cos(angles), jnp.sin(angles))


def axial_rotations(places: Num[np.ndarray, "n a"], axes: tuple[int, ...], theta: float, batch: int) -> Rotary:
    """Angles of positions: each axis takes its own features of a head, with frequencies of its own."""
    angles = [places[:, i, None] * theta ** (-np.arange(size // 2) * 2.0 / size) for i, size in enumerate(axes)]
    whole = np.concatenate(angles, axis=-1)
    whole = np.broadcast_to(whole, (batch, *whole.shape))
    return Rotary(jnp.asarray(np.cos(whole), jnp.float32), jnp.asarray(np.sin(whole), jnp.float32))


def token_rotations(places: Num[Array, "b n a"], axes: tuple[int, ...], theta: float) -> Rotary:
    """The same for positions of every token's own, in float32."""
    frequencies = [jnp.asarray(theta ** (-np.arange(size // 2) * 2.0 / size), jnp.float32) for size in axes]
    angles = [places[..., i, None].astype(jnp.float32) * own for i, own in enumerate(frequencies)]
    whole = jnp.concatenate(angles, axis=-1)
    return Rotary(jnp.cos(whole), jnp.sin(whole))


class TimeEmbedding(nn.Module):
    """A number `[b]` to a vector `[b, d]`, float32."""

    width: int
    shift: float = 0.0

    @nn.compact
    def __call__(self, t: Float[Array, "b"]) -> Float[Array, "b d"]:
        """t as `Process.network_time` gives it."""
        h = Dense(self.width, (None, "embed"), normal(0.02), name="fc1")(sinusoid(t, shift=self.shift))
        return Dense(self.width, ("embed", "mlp"), normal(0.02), name="fc2")(jax.nn.silu(h))


class LabelEmbedding(nn.Module):
    """Row y of a table `[rows, d]`; the last row is the null class if the model has one."""

    rows: int
    width: int
    std: float = 0.02

    @nn.compact
    def __call__(self, y: Int[Array, "b"]) -> Float[Array, "b d"]:
        """Labels in 0 .. rows - 1."""
        table = declare(self, "table", normal(self.std), (self.rows, self.width), (None, "embed"))
        return table[y]
