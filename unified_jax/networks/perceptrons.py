"""A generator and a discriminator without maps, for vectors and small arrays: leaky perceptrons, for `models.gan`.

h = leaky(W_i h + b_i), slope 0.2;   the condition vector is joined to the input
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.layers.init import normal
from unified_jax.layers.mlp import Dense

SLOPE = 0.2


def _through(h: Float[Array, "b d"], c: Array | None, width: int, depth: int) -> Float[Array, "b m"]:
    """`depth` hidden layers, inside the calling module."""
    h = h if c is None else jnp.concatenate([h, c], axis=-1)
    for i in range(depth):
        init = normal(math.sqrt(2 / (1 + SLOPE**2) / h.shape[-1]))
        h = nn.leaky_relu(Dense(width, ("embed", "mlp"), kernel_init=init, name=f"fc{i}")(h), SLOPE)
    return h


class PerceptronGenerator(nn.Module):
    """Noise to arrays of a shape."""

    shape: tuple[int, ...] = (1, 2)
    """Shape of a sample in model space."""
    latent: int = 16
    """Numbers of noise."""
    width: int = 128
    """Features of the hidden layers."""
    depth: int = 3
    """Hidden layers."""
    classes: int = 0
    """Length of the condition vector; 0: unconditional."""

    @nn.compact
    def __call__(self, z: Float[Array, "b l"], c: Float[Array, "b k"] | None = None) -> Float[Array, "b ..."]:
        """`[b, latent]` to `[b, *shape]`."""
        h = _through(z, c, self.width, self.depth)
        init = normal(h.shape[-1] ** -0.5)
        x = Dense(math.prod(self.shape), ("mlp", "embed"), kernel_init=init, name="end")(h)
        return x.reshape(len(x), *self.shape)


class PerceptronDiscriminator(nn.Module):
    """Arrays to logits."""

    width: int = 128
    """Features of the hidden layers."""
    depth: int = 3
    """Hidden layers."""
    classes: int = 0
    """Length of the condition vector; 0: unconditional."""

    @nn.compact
    def __call__(self, x: Float[Array, "b ..."], c: Float[Array, "b k"] | None = None) -> Float[Array, "b"]:
        """`[b, *shape]` to logits."""
        h = _through(x.reshape(len(x), -1), c, self.width, self.depth)
        return Dense(1, ("mlp", None), kernel_init=normal(h.shape[-1] ** -0.5), name="end")(h)[:, 0]
