r"""Continuous Gaussian paths: alpha(t) and sigma(t) of x_t = alpha x0 + sigma eps, t = 0 data, t = 1 noise.

    Linear                  alpha = 1 - t                  sigma = t                     rectified flow, SiT "Linear"
    Gvp                     alpha = cos(pi t / 2)          sigma = sin(pi t / 2)         SiT "GVP"
    Vp                      alpha = exp(-t^2 (b1 - b0) / 4 - t b0 / 2)                   Song et al. 2021, eq. 33
    InterpolatedVp          log alpha linear between the steps of a discrete process, t_i = (i + 1) / T     DPM-Solver

The last two preserve variance, sigma = sqrt(1 - alpha^2), and so does Gvp. (SiT writes t = 0 for noise: its t is our
1 - t.) Grids that are uniform in the noise level s = sigma / alpha, and solvers that step in its logarithm, need the
inverse `time_of_level`, s -> t.
"""

import functools
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from unified_jax.config import check_finite
from unified_jax.processes.schedules import Schedule, make_betas


@runtime_checkable
class Path(Protocol):
    """alpha and sigma as functions of time."""

    @property
    def reaches_noise(self) -> bool:
        """Whether alpha(1) = 0."""
        ...

    def alpha_sigma(self, t: Array) -> tuple[Array, Array]:
        """Both, shaped as t."""
        ...

    def time_of_level(self, level: Array) -> Array:
        """The t at which sigma / alpha = level > 0."""
        ...


@dataclass(frozen=True)
class Linear:
    """alpha = 1 - t, sigma = t."""

    @property
    def reaches_noise(self) -> bool:
        """True: alpha(1) = 0."""
        return True

    def alpha_sigma(self, t: Array) -> tuple[Array, Array]:
        """(1 - t, t)."""
        return 1.0 - t, t

    def time_of_level(self, level: Array) -> Array:
        """s / (1 + s)."""
        return level / (1.0 + level)


@dataclass(frozen=True)
class Gvp:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2) (generalised variance preserving)."""

    @property
    def reaches_noise(self) -> bool:
        """True: alpha(1) = 0."""
        return True

    def alpha_sigma(self, t: Array) -> tuple[Array, Array]:
        """alpha as a sine of 1 - t, so that it is exactly 0 at t = 1."""
        return jnp.sin(0.5 * jnp.pi * (1.0 - t)), jnp.sin(0.5 * jnp.pi * t)

    def time_of_level(self, level: Array) -> Array:
        """(2 / pi) atan s."""
        return 2.0 / jnp.pi * jnp.arctan(level)


@dataclass(frozen=True)
class Vp:
    """The variance-preserving SDE with beta(t) = beta_min + t (beta_max - beta_min)."""

    beta_min: float = 0.1
    """beta at the data."""
    beta_max: float = 20.0
    """beta at the noise."""

    def __post_init__(self) -> None:
        check_finite(self)
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(f"Vp needs 0 < beta_min <= beta_max, found {self.beta_min} and {self.beta_max}.")

    @property
    def reaches_noise(self) -> bool:
        """False: alpha(1) = exp(-(beta_min + beta_max) / 4), 0.0066 by default."""
        return False

    def alpha_sigma(self, t: Array) -> tuple[Array, Array]:
        """alpha by its logarithm, sigma by expm1, so that both keep their digits near the data."""
        log_alpha = -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min
        return jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2.0 * log_alpha))

    def time_of_level(self, level: Array) -> Array:
        """The positive root of t^2 (b1 - b0) / 2 + t b0 = log(1 + s^2)."""
        target, slope = jnp.log1p(jnp.square(level)), self.beta_max - self.beta_min
        return 2.0 * target / (jnp.sqrt(self.beta_min**2 + 2.0 * slope * target) + self.beta_min)


@dataclass(frozen=True)
class InterpolatedVp:
    """A discrete process in continuous time: log alpha linear between t = 1/T, 2/T, ..., 1, and beyond."""

    schedule: Schedule = "linear"
    """Noise schedule: the shape of beta over the steps."""
    steps: int = 1000
    """T."""
    beta_start: float = 1e-4
    """First beta."""
    beta_end: float = 0.02
    """Last beta."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.steps < 2 or not np.isfinite(self.log_alphas).all():
            raise ValueError(
                f"InterpolatedVp needs at least 2 steps with betas in (0, 1), found {self.schedule} with {self.steps} "
                f"steps from {self.beta_start:g} to {self.beta_end:g}."
            )

    @property
    def reaches_noise(self) -> bool:
        """False: alpha(1) > 0."""
        return False

    @functools.cached_property
    def log_alphas(self) -> np.ndarray:
        """log sqrt(abar) at every step, float64."""
        betas = make_betas(self.schedule, self.steps, self.beta_start, self.beta_end)
        inside = (betas > 0) & (betas < 1)
        return 0.5 * np.cumsum(np.log1p(-np.where(inside, betas, np.nan)))

    def alpha_sigma(self, t: Array) -> tuple[Array, Array]:
        """Piecewise linear log alpha; the first segment reaches back to the data (0 at about t = 0)."""
        knots = np.arange(1, self.steps + 1) / self.steps
        log_alpha = jnp.minimum(_piecewise_linear(t, knots, self.log_alphas), 0.0)
        return jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2.0 * log_alpha))

    def time_of_level(self, level: Array) -> Array:
        """Inverse of the same piecewise linear function."""
        log_alpha = -0.5 * jnp.log1p(jnp.square(level))
        knots = np.arange(1, self.steps + 1) / self.steps
        return _piecewise_linear(log_alpha, self.log_alphas[::-1], knots[::-1])


def _piecewise_linear(x: Array, knots: np.ndarray, values: np.ndarray) -> Array:
    """Linear between increasing knots, and along the first and last segments outside them."""
    low = jnp.clip(jnp.searchsorted(jnp.asarray(knots), x, side="right") - 1, 0, len(knots) - 2)
    k, v = jnp.asarray(knots), jnp.asarray(values)
    fraction = (x - k[low]) / (k[low + 1] - k[low])
    return v[low] + fraction * (v[low + 1] - v[low])
