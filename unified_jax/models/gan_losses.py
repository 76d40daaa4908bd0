r"""Losses of a generator G and a discriminator D, per sample, and the gradient penalties of D. Logits of any shape.

    relativistic   L_D = f(D(x) - D(G(z))),  L_G = f(D(G(z)) - D(x)),  f(t) = log(1 + e^-t): the pair (x, G(z)) of a row
                   (RpGAN: Jolicoeur-Martineau 2019, Sun et al. 2020)
    separable      L_D = f(D(x)) + f(-D(G(z))),  L_G = f(D(G(z)))         (Goodfellow et al. 2014, non-saturating)
    hinge          L_D = relu(1 - D(x)) + relu(1 + D(G(z))),  L_G = -D(G(z))   (Lim and Ye 2017)
    R1, R2         |grad_x D(x)|^2 at data, at samples; summed over a sample's numbers (Mescheder et al. 2018)

Every local minimum of the relativistic loss is global, whereas separable losses have basins that drop modes. Gradient
descent on it converges with R1 and R2 together (Huang et al. 2024).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@runtime_checkable
class Adversarial(Protocol):
    """The losses of the two players; a frozen dataclass. Implementations: this module."""

    def discriminator(self, real: Float[Array, "b ..."], fake: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """What the discriminator minimises, from its logits of data and of samples."""
        ...

    def generator(self, real: Float[Array, "b ..."], fake: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """What the generator minimises."""
        ...


@dataclass(frozen=True)
class Relativistic:
    """RpGAN: each sample against the data of its row."""

    def discriminator(self, real: Float[Array, "b ..."], fake: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """See `Adversarial`."""
        return jax.nn.softplus(fake - real)

    def generator(self, real: Float[Array, "b ..."], fake: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """See `Adversarial`."""
        return jax.nn.softplus(real - fake)


@dataclass(frozen=True)
class Separable:
    """The first GAN's losses, the generator's not saturating."""

    def discriminator(self, real: Float[Array, "b ..."], fake: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """See `Adversarial`."""
        return jax.nn.softplus(-real) + jax.nn.softplus(fake)

    def generator(self, real: Float[Array, "b ..."], fake: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """See `Adversarial`."""
        del real
        return jax.nn.softplus(-fake)


@dataclass(frozen=True)
class Hinge:
    """Hinge losses."""

    def discriminator(self, real: Float[Array, "b ..."], fake: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """See `Adversarial`."""
        return jax.nn.relu(1 - real) + jax.nn.relu(1 + fake)

    def generator(self, real: Float[Array, "b ..."], fake: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """See `Adversarial`."""
        del real
        return -fake


def judged(
    critic: Callable[[Array], Float[Array, "b ..."]], x: Float[Array, "b ..."]
) -> tuple[Float[Array, "b ..."], Float[Array, "b"]]:
    """(logits, |grad_x critic|^2 of each sample). The critic must keep samples apart: no batch statistics."""

    def total(x: Array) -> tuple[Array, Array]:
        logits = critic(x)
        return jnp.sum(logits), logits

    slope, logits = jax.grad(total, has_aux=True)(x)
    return logits, jnp.sum(jnp.square(slope), axis=tuple(range(1, x.ndim)))
