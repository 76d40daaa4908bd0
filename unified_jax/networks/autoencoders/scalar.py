r"""Quantisation without a table: every number is rounded by itself, and an id counts the combinations.

    FSQ (Mentzer et al. 2023)     L_i values for number i, evenly spaced in [-1, 1] after a tanh
        code = round(tanh(z + s) (L - 1)(1 + eps) / 2 - o) / floor(L / 2),   o = 1/2 for even L else 0, tanh(s) at o
        symmetric (Parker et al. 2024): code = 2 floor((L - 1)(tanh z + 1) / 2 + 1/2) / (L - 1) - 1
    LFQ (Yu et al. 2023)          the sign of each number; with `spherical` on the unit sphere (BSQ, Zhao et al. 2024)
        entropy = E H(p(code | z)) - gamma H(E p(code | z)),   p(code | z) = softmax(2 z . code / temperature)

The first number of an FSQ id has the smallest place value, of an LFQ id the largest. Gradients pass straight through.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.networks.autoencoders.quantise import passed, unit
from unified_jax.precision import precision

BEYOND = 1e-3
"""How far FSQ's tanh reaches beyond the outer values, as a share."""
LEAST = 1e-5
"""Probabilities are at least this within the logarithm of an entropy."""


@dataclass(frozen=True)
class Fsq:
    """Finite scalar quantisation."""

    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Number of values of each number."""
    symmetric: bool = False
    """Whether an even number of values lies symmetrically around 0."""
    clamp: bool = False
    """Whether numbers are cut to [-1, 1] rather than squashed by tanh."""

    def __post_init__(self) -> None:
        least = 2 if self.symmetric else 3
        if not self.levels or min(self.levels) < least:
            raise ValueError(f"Fsq.levels must be {least} or more for each number, found {self.levels}.")

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return len(self.levels)

    @property
    def size(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    def quantise(self, z: Float[Array, "*s d"]) -> tuple[Float[Array, "*s d"], Int[Array, "*s"]]:
        """(codes in [-1, 1], whose gradient reaches z; ids)."""
        levels = jnp.asarray(self.levels, z.dtype)
        squash, back = (lambda v: jnp.clip(v, -1, 1), lambda v: v) if self.clamp else (jnp.tanh, jnp.arctanh)
        if self.symmetric:
            place = (levels - 1) * (squash(z) + 1) / 2 + 0.5
            place = passed(place, jnp.floor(place))
            codes = place * (2 / (levels - 1)) - 1
            return codes, self._ids(jax.lax.stop_gradient(place))
        half = (levels - 1) * (1 + BEYOND) / 2
        offset = jnp.where(levels % 2 == 0, 0.5, 0.0).astype(z.dtype)
        place = squash(z + back(offset / half)) * half - offset
        place = passed(place, jnp.round(place))
        width = levels // 2
        return place / width, self._ids(jax.lax.stop_gradient(place) + width)

    def codes(self, ids: Int[Array, "*s"]) -> Float[Array, "*s d"]:
        """The codes of ids."""
        levels = jnp.asarray(self.levels)
        places = ((ids[..., None] // self._values()) % levels).astype(jnp.float32)
        if self.symmetric:
            return places * (2 / (levels - 1)) - 1
        return (places - levels // 2) / (levels // 2)

    def _values(self) -> Int[Array, "d"]:
        return jnp.asarray([math.prod(self.levels[:i]) for i in range(len(self.levels))])

    def _ids(self, places: Float[Array, "*s d"]) -> Int[Array, "*s"]:
        return jnp.sum(jnp.round(places).astype(jnp.int32) * self._values(), axis=-1)


class Entropies(NamedTuple):
    """Losses of LFQ."""

    each: Float[Array, ""]
    """Mean entropy of the codes of one vector, in nats: small when it is sure of its code."""
    mean: Float[Array, ""]
    """Entropy of the mean over vectors: large when all codes are used."""


@dataclass(frozen=True)
class Lfq:
    """Lookup-free quantisation: one bit for each number."""

    width: int = 18
    """Numbers, and bits of an id."""
    scale: float = 1.0
    """Size of a code's numbers."""
    spherical: bool = False
    """Whether vectors and codes have length `scale`."""

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 30 or not self.scale > 0:
            raise ValueError(f"Lfq: width must lie in 1 .. 30 and scale be positive, found {self.width}, {self.scale}.")

    @property
    def size(self) -> int:
        """Number of codes."""
        return 2**self.width

    def prepared(self, z: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
        """The vectors as they are compared with codes."""
        return unit(z) * self.scale if self.spherical else z

    def quantise(self, z: Float[Array, "*s d"]) -> tuple[Float[Array, "*s d"], Int[Array, "*s"]]:
        """(codes, whose gradient reaches z; ids)."""
        z = self.prepared(z)
        ids = jnp.sum((z > 0) * self._values(), axis=-1)
        return passed(z, self.codes(ids)), ids

    def codes(self, ids: Int[Array, "*s"]) -> Float[Array, "*s d"]:
        """The codes of ids."""
        bits = (ids[..., None] & self._values()) != 0
        return self.prepared(jnp.where(bits, self.scale, -self.scale))

    def entropies(self, z: Float[Array, "*s d"], temperature: float = 0.01, books: int = 1) -> Entropies:
        """Of the soft assignment of all vectors to all codes; memory grows with their product.

        With several `books` they are the last axis before the features, and the mean is that over each by itself.
        """
        table = self.codes(jnp.arange(self.size))
        z = self.prepared(z).reshape(-1, books, self.width)
        share = jax.nn.softmax(2 * jnp.matmul(z, table.T, precision=precision(z.dtype)) / temperature, axis=-1)
        return Entropies(jnp.mean(_entropy(share)), jnp.mean(_entropy(jnp.mean(share, axis=0))))

    def _values(self) -> Int[Array, "d"]:
        return 2 ** jnp.arange(self.width - 1, -1, -1)


def _entropy(share: Float[Array, "*s k"]) -> Float[Array, "*s"]:
    return -jnp.sum(share * jnp.log(jnp.maximum(share, LEAST)), axis=-1)
