r"""Densities of the training time of a continuous process on (0, 1), sampled with one key per example.

    uniform         t ~ U[0, 1)
    logit-normal    t = sigmoid(mean + std n), n ~ N(0, 1), concentrates on the middle of the path (Esser et
                    al. 2024, section 3.1); density exp(-(logit t - mean)^2 / (2 std^2)) / (std sqrt(2 pi) t (1 - t))
    mode            t = 1 - u - s (cos^2(pi u / 2) - 1 + u), u ~ U[0, 1) (the same, "mode sampling with heavy tails")
    cosmap          t = 1 - 1 / (tan(pi u / 2) + 1) (the same, "CosMap"); density 2 / (pi (1 - 2 t + 2 t^2))
    lognormal       the noise level sigma itself, log sigma ~ N(mean, std^2) (Karras et al. 2022), for `Edm`

Each takes a resolution shift t' = s t / (1 + (s - 1) t) (the same, section 5.3.2): s = sqrt(m / n) for m pixels
if n pixels need none, or exp(mu) with mu linear in the number of tokens ("dynamic", `dynamic_shift`).
"""

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.config import check_finite
from unified_jax.typing import Keys

T = TypeVar("T", Array, np.ndarray, float)


def shift_times(t: T, shift: float) -> T:
    """The resolution shift; keeps 0 and 1.

    >>> shift_times(0.5, 3.0)
    0.75
    """
    return shift * t / (1.0 + (shift - 1.0) * t)


def unshifted(time: float, shift: float) -> float:
    """The time that `shift_times` moves to this one; 0 and 1 stay."""
    return time / (shift - (shift - 1.0) * time)


def resolution_shift(pixels: int, base_pixels: int) -> float:
    """sqrt(pixels / base_pixels): the static shift for images of another resolution (Esser et al. 2024, eq. 23)."""
    return math.sqrt(pixels / base_pixels)


def dynamic_shift(
    tokens: int, base: float = 0.5, most: float = 1.15, base_tokens: int = 256, most_tokens: int = 4096
) -> float:
    """exp(mu), mu on the line from `base` at `base_tokens` to `most` at `most_tokens` (as Flux chooses it)."""
    slope = (most - base) / (most_tokens - base_tokens)
    return math.exp(base + slope * (tokens - base_tokens))


def _check_shift(times: Any) -> None:
    check_finite(times)
    if times.shift <= 0:
        raise ValueError(f"{type(times).__name__}.shift must be positive, found {times.shift}.")


@dataclass(frozen=True)
class UniformTimes:
    """t ~ U[0, 1)."""

    shift: float = 1.0
    """Resolution shift; above 1 leans towards noise."""

    def __post_init__(self) -> None:
        _check_shift(self)

    def draw(self, keys: Keys) -> Float[Array, "b"]:
        """One time per example."""
        return shift_times(_uniform(keys), self.shift)


@dataclass(frozen=True)
class LogitNormalTimes:
    """t = sigmoid(mean + std n), n ~ N(0, 1)."""

    mean: float = 0.0
    """Mean of logit t; above 0 leans towards noise."""
    std: float = 1.0
    """Standard deviation of logit t."""
    shift: float = 1.0
    """Resolution shift (the same as log(shift) added to the mean)."""

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"LogitNormalTimes.std must be positive, found {self.std}.")
        _check_shift(self)

    def draw(self, keys: Keys) -> Float[Array, "b"]:
        """One time per example."""
        return self.of_normal(_normal(keys))

    def of_normal(self, n: Float[Array, "b"]) -> Float[Array, "b"]:
        """The time for a standard normal number n."""
        return shift_times(jax.nn.sigmoid(self.mean + self.std * n), self.shift)

    def density(self, t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Probability density at t in (0, 1)."""
        logit = jnp.log(t) - jnp.log1p(-t)
        z = (logit - self.mean - math.log(self.shift)) / self.std
        return jnp.exp(-0.5 * z**2) / (self.std * jnp.sqrt(2 * jnp.pi) * t * (1 - t))


@dataclass(frozen=True)
class ModeTimes:
    """A mode with heavy tails (Esser et al. 2024)."""

    scale: float = 1.29
    """s; above 0 favours the middle, below 0 the ends."""
    shift: float = 1.0
    """Resolution shift."""

    def __post_init__(self) -> None:
        if not -1.0 <= self.scale <= 2.0 / (math.pi - 2.0):
            raise ValueError(f"ModeTimes.scale must lie in [-1, {2 / (math.pi - 2):.3f}], found {self.scale}.")
        _check_shift(self)

    def draw(self, keys: Keys) -> Float[Array, "b"]:
        """One time per example."""
        return self.of_uniform(_uniform(keys))

    def of_uniform(self, u: Float[Array, "b"]) -> Float[Array, "b"]:
        """The time for a uniform number u."""
        return shift_times(1.0 - u - self.scale * (jnp.cos(0.5 * jnp.pi * u) ** 2 - 1.0 + u), self.shift)


@dataclass(frozen=True)
class CosMapTimes:
    """The density under which rectified flow weights log-SNRs as the cosine schedule does."""

    shift: float = 1.0
    """Resolution shift."""

    def __post_init__(self) -> None:
        _check_shift(self)

    def draw(self, keys: Keys) -> Float[Array, "b"]:
        """One time per example."""
        u = _uniform(keys)
        return shift_times(1.0 - 1.0 / (jnp.tan(0.5 * jnp.pi * u) + 1.0), self.shift)

    def density(self, t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """2 / (pi (1 - 2 t + 2 t^2)), without a shift."""
        return 2.0 / (jnp.pi * (1.0 - 2.0 * t + 2.0 * t**2))


@dataclass(frozen=True)
class LogNormalLevels:
    """Noise levels with log sigma ~ N(mean, std^2)."""

    mean: float = -1.2
    """P_mean."""
    std: float = 1.2
    """P_std."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.std <= 0:
            raise ValueError(f"LogNormalLevels.std must be positive, found {self.std}.")

    def draw(self, keys: Keys) -> Float[Array, "b"]:
        """One noise level per example."""
        return jnp.exp(self.mean + self.std * _normal(keys))


Times = UniformTimes | LogitNormalTimes | ModeTimes | CosMapTimes
"""Densities of a time in [0, 1]."""


def _uniform(keys: Keys) -> Float[Array, "b"]:
    return jax.vmap(lambda key: jax.random.uniform(key))(keys)


def _normal(keys: Keys) -> Float[Array, "b"]:
    return jax.vmap(lambda key: jax.random.normal(key))(keys)
