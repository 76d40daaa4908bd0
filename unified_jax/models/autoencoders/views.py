r"""EQ-VAE (Kouzelis et al. 2025, 2502.09509): latents turn and scale with their images.

In a step, one view of the batch is reconstructed in the place of the batch itself:

    with probability p          tau x from decoder(tau z):   tau bilinear to the sizes times s, then k quarter turns
    else, with probability q    x scaled by s, encoded and decoded: no latent is changed
    else                        x

s is one of `scales`, k one of 1, 2, 3. Every scale is a branch of the program, since its sizes are others; the authors
draw s of {8/32, .., 31/32}. With p = q = 0 the step is that of the plain autoencoder.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.models.autoencoders.terms import resized


@dataclass(frozen=True)
class EqVae:
    """How a batch is seen."""

    share: float = 0.5
    """p: steps in which image and latent are transformed."""
    small: float = 0.25
    """q: of the others, those in which the image alone is scaled."""
    scales: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Shares of the sizes."""
    turns: bool = True
    """Whether they are also turned by 90, 180 or 270 degrees."""

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 <= self.small <= 1):
            raise ValueError(f"EqVae.share and small are probabilities, found {self.share} and {self.small}.")
        if not self.scales or not all(0 < s <= 1 for s in self.scales):
            raise ValueError(f"EqVae.scales lie above 0 and are at most 1, found {self.scales}.")

    def check(self, shape: tuple[int, ...], latent: tuple[int, ...]) -> None:
        """Raises ValueError for latents that are no grid, or that turn into another shape."""
        if len(latent) != 3 or (self.turns and (shape[0] != shape[1] or latent[0] != latent[1])):
            raise ValueError(f"EqVae turns squares, found data {list(shape)} and latents {list(latent)}.")
        odd = [s for s in self.scales for n in latent[:2] if (s * n) % 1 or (s * n * (shape[0] // latent[0])) % 1]
        if odd:
            raise ValueError(f"EqVae.scales: {odd[0]} of latents of {latent[0]} x {latent[1]} is no whole number.")

    def draw(self, key: Array) -> tuple[Array, Array]:
        """(branch: 0 plain, 1 .. n transformed, n + 1 .. 2 n small; quarter turns) of a step."""
        first, second, third, fourth = jax.random.split(key, 4)
        one = jax.random.randint(third, (), 1, len(self.scales) + 1)
        moved, small = jax.random.uniform(first) < self.share, jax.random.uniform(second) < self.small
        branch = jnp.where(moved, one, jnp.where(small, one + len(self.scales), 0))
        return branch, jax.random.randint(fourth, (), 1, 4) if self.turns else jnp.zeros((), jnp.int32)


def transformed(x: Any, scale: float, turns: Array) -> Any:
    """tau x."""
    x = resized(x, scale)
    turned = [lambda x, k=k: jnp.rot90(x, k, (1, 2)) for k in range(4)]
    return jax.lax.switch(turns, turned, x) if x.shape[1] == x.shape[2] else x
