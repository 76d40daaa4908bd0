r"""How the training time of a continuous process is drawn: densities on (0, 1), one key an example.

Uniform: t ~ U[0, 1). Logit-normal (Esser et al. 2024, section 3.1): t = sigmoid(mean + std n), n ~ N(0, 1), which
spends training in the middle of the path; its density is exp(-(logit t - mean)^2 / (2 std^2)) / (std sqrt(2 pi) t (1 -
t)).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.typing import Keys


@dataclass(frozen=True)
class UniformTimes:
    """t ~ U[0, 1)."""

    def draw(self, keys: Keys) -> Float[Array, "b"]:
        """One time an example."""
        return jax.vmap(lambda key: jax.random.uniform(key))(keys)


@dataclass(frozen=True)
class LogitNormalTimes:
    """t = sigmoid(mean + std n), n ~ N(0, 1)."""

    mean: float = 0.0
    """Mean of logit t; above 0 leans towards noise."""
    std: float = 1.0
    """Standard deviation of logit t."""

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"LogitNormalTimes.std must be positive, found {self.std}.")

    def draw(self, keys: Keys) -> Float[Array, "b"]:
        """One time an example."""
        normal = jax.vmap(lambda key: jax.random.normal(key))(keys)
        return jax.nn.sigmoid(self.mean + self.std * normal)

    def density(self, t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Probability density at t in (0, 1)."""
        logit = jnp.log(t) - jnp.log1p(-t)
        z = (logit - self.mean) / self.std
        return jnp.exp(-0.5 * z**2) / (self.std * jnp.sqrt(2 * jnp.pi) * t * (1 - t))
