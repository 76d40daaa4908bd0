r"""Vector quantisation (van den Oord et al. 2017): each vector becomes the nearest row of a table.

    id = argmin_k |z - e_k|^2        or argmax of the cosine
    q  = e_id                        in the backward pass the gradient of q reaches z

The gradient is copied (straight through), or turned and scaled as the vector was ("rotation", Fifty et al. 2024).
A table is learned by the loss |sg z - e|^2 + beta |z - sg e|^2, or, without its first term, by moving averages (EMA):

    N_k <- g N_k + (1 - g) n_k,    m_k <- g m_k + (1 - g) sum of the z with id k
    e_k  = m_k / N'_k,             N'_k = (N_k + eps) / (N + K eps) N

`EmaCodebook` keeps e, N and m in the aux of a model: what a batch adds to them is a sum over its vectors.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.precision import precision

Backward = Literal["straight", "rotation"]
"""How the gradient of a code reaches the vector that it stands for."""


def nearest(z: Float[Array, "*s d"], table: Float[Array, "k d"], cosine: bool = False) -> Int[Array, "*s"]:
    """The id of the closest row; with `cosine` that of the largest product, for vectors of length one."""
    products = jnp.matmul(z, table.T, precision=precision(z.dtype))
    return jnp.argmax(products if cosine else products - 0.5 * jnp.sum(jnp.square(table), axis=-1), axis=-1)


def rows(table: Float[Array, "k d"], ids: Int[Array, "*s"]) -> Float[Array, "*s d"]:
    """The rows of these ids."""
    return jnp.take(table, ids, axis=0)


def passed(z: Float[Array, "*s d"], code: Float[Array, "*s d"], backward: Backward = "straight") -> Array:
    """The code, whose gradient reaches z."""
    stop = jax.lax.stop_gradient
    if backward == "straight":
        return z + stop(code - z)
    u, q = (stop(unit(v)) for v in (z, code))
    w = stop(unit(u + q))
    turned = z - 2 * jnp.sum(z * w, -1, keepdims=True) * w + 2 * jnp.sum(z * u, -1, keepdims=True) * q
    longer = jnp.linalg.norm(code, axis=-1, keepdims=True) / jnp.maximum(
        jnp.linalg.norm(z, axis=-1, keepdims=True), 1e-6
    )
    return turned * stop(longer)


def unit(x: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
    """x / |x|; zero, with a finite gradient, for zero."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def apart(x: Float[Array, "*s d"], y: Float[Array, "*s d"]) -> Float[Array, ""]:
    """The mean square of x - sg(y): the commitment of x to y, or a table's loss the other way round."""
    return jnp.mean(jnp.square(x - jax.lax.stop_gradient(y)))


def perplexity(counts: Float[Array, "k"]) -> Float[Array, ""]:
    """exp of the entropy of the use of codes: between 1 and their number."""
    share = counts / jnp.maximum(jnp.sum(counts), 1)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share)))


class Quantised(NamedTuple):
    """Vectors after quantisation."""

    codes: Float[Array, "*s d"]
    """The rows, whose gradient reaches the vectors."""
    ids: Int[Array, "*s"]
    commitment: Float[Array, ""]
    """Mean of |z - sg(e)|^2 over numbers, without a weight."""


class EmaState(NamedTuple):
    """A table and the averages that it is made of."""

    table: Float[Array, "k d"]
    number: Float[Array, "k"]
    """Average number of vectors with this id."""
    total: Float[Array, "k d"]
    """Average sum of them."""


class EmaSums(NamedTuple):
    """What a batch adds; sums over microbatches and devices are those of the whole batch."""

    number: Float[Array, "k"]
    total: Float[Array, "k d"]


@dataclass(frozen=True)
class EmaCodebook:
    """A table of codes that follows the vectors by moving averages."""

    codes: int
    """Number of rows."""
    width: int
    """Features of a row."""
    decay: float = 0.99
    """Share of an average that stays, a step."""
    eps: float = 1e-5
    """Added to every number before dividing by it."""
    cosine: bool = False
    """Whether vectors and rows have length one."""
    backward: Backward = "straight"
    """How the gradient reaches the vectors."""

    def __post_init__(self) -> None:
        if min(self.codes, self.width) < 1:
            raise ValueError("EmaCodebook: codes and width must be at least 1.")
        if not 0 <= self.decay < 1 or not self.eps > 0:
            raise ValueError("EmaCodebook: decay must lie in [0, 1), eps above 0.")

    def init_aux(self, key: Array) -> EmaState:
        """Rows of N(0, 1 / width), each with an average of one vector."""
        table = jax.random.normal(key, (self.codes, self.width)) / self.width**0.5
        table = unit(table) if self.cosine else table
        return EmaState(table, jnp.ones(self.codes), table)

    def quantise(self, state: EmaState, z: Float[Array, "*s d"]) -> Quantised:
        """The codes of the vectors."""
        z = unit(z) if self.cosine else z
        ids = nearest(jax.lax.stop_gradient(z), state.table, self.cosine)
        code = rows(state.table, ids)
        return Quantised(passed(z, code, self.backward), ids, apart(z, code))

    def sums(self, z: Float[Array, "*s d"], ids: Int[Array, "*s"]) -> EmaSums:
        """What these vectors add to the averages."""
        flat = jax.lax.stop_gradient(unit(z) if self.cosine else z).reshape(-1, self.width)
        there = jax.nn.one_hot(ids.reshape(-1), self.codes, dtype=flat.dtype)
        return EmaSums(jnp.sum(there, axis=0), jnp.matmul(there.T, flat, precision=precision(flat.dtype)))

    def settle_aux(self, state: EmaState, sums: EmaSums) -> EmaState:
        """The state after a step."""
        number = self.decay * state.number + (1 - self.decay) * sums.number
        total = self.decay * state.total + (1 - self.decay) * sums.total
        whole = jnp.sum(number)
        smooth = (number + self.eps) / (whole + self.codes * self.eps) * whole
        table = total / smooth[:, None]
        return EmaState(unit(table) if self.cosine else table, number, total)
