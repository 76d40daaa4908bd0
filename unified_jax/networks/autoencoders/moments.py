"""What an encoder says of a latent."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LOGVAR = (-30.0, 20.0)
"""Range of a log variance."""


class Moments(NamedTuple):
    """What an encoder says of a latent: a Gaussian for every number, or a point."""

    mean: Float[Array, "b ..."]
    logvar: Float[Array, "b ..."] | None = None
    """None: a point, without noise."""

    @property
    def std(self) -> Float[Array, "b ..."]:
        """The standard deviation; 0 of a point."""
        return jnp.zeros_like(self.mean) if self.logvar is None else jnp.exp(0.5 * self.logvar)

    def draw(self, keys: Array) -> Float[Array, "b ..."]:
        """A sample, one key per row."""
        if self.logvar is None:
            return self.mean
        noise = jax.vmap(lambda key: jax.random.normal(key, self.mean.shape[1:]))(keys)
        return self.mean + self.std * noise

    def kl(self) -> Float[Array, "b ..."]:
        """The divergence of each Gaussian from N(0, 1), in nats. Raises ValueError for a point."""
        if self.logvar is None:
            raise ValueError("A latent without noise has no divergence from N(0, 1).")
        return 0.5 * (jnp.square(self.mean) + jnp.exp(self.logvar) - 1.0 - self.logvar)


def moments(features: Float[Array, "b ... c"]) -> Moments:
    """Means are the first half of the channels, log variances the second."""
    mean, logvar = jnp.split(features, 2, axis=-1)
    return Moments(mean, jnp.clip(logvar, *LOGVAR))
