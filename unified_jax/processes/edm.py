r"""EDM (Karras et al. 2022): x = x0 + sigma eps, preconditioned.

The time is the noise level itself: t = sigma, alpha = 1, from sigma_max (noise) to 0 (data). The denoiser is

    D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)                                                   (eq. 7)
    c_skip = sd^2 / (sigma^2 + sd^2),   c_out = sigma sd / sqrt(sigma^2 + sd^2),   c_in = 1 / sqrt(sigma^2 + sd^2),
    c_noise = log(sigma) / 4                                                                            (table 1)

with sd the standard deviation of the data. So the target of F is (1 - c_skip) / c_out x0 - c_skip sigma / c_out eps, a
pair (p, q) like any other, of unit variance at every sigma; its plain mean square is the paper's loss, whose weight
lambda = 1 / c_out^2 cancels c_out. Training noise levels are lognormal; sampling uses `grids.karras_levels`.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.config import check_finite
from unified_jax.errors import UserError
from unified_jax.processes.grids import GridRequest, level_grid
from unified_jax.processes.targets import Prediction, Process, expand, mean_per_example, solve
from unified_jax.processes.times import LogNormalLevels
from unified_jax.typing import Keys

CLEAN = -5.0
"""The network's time of data without noise: that of sigma = 2e-9."""


@dataclass(frozen=True)
class Edm:
    """Noise of variance sigma^2 added to the data, and a preconditioned network."""

    sigma_data: float = 0.5
    """Standard deviation of the data."""
    sigma_min: float = 0.002
    """Smallest noise level that is sampled, before 0."""
    sigma_max: float = 80.0
    """Noise level at which sampling starts."""
    levels: LogNormalLevels = LogNormalLevels()
    """Density of the training noise levels."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.sigma_data <= 0 or not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"Edm needs sigma_data > 0 and 0 < sigma_min < sigma_max, found {self.sigma_data}, {self.sigma_min} "
                f"and {self.sigma_max}."
            )

    @property
    def channels_per_output(self) -> int:
        """1: the variance is not learned."""
        return 1

    @property
    def noise_time(self) -> float:
        """The noise level at which sampling starts."""
        return self.sigma_max

    def alpha_sigma(self, t: Array) -> tuple[Array, Array]:
        """(1, t)."""
        return jnp.ones_like(t), t

    def time_of_level(self, level: Array) -> Array:
        """The noise level itself."""
        return level

    def preconditioning(self, t: Array) -> tuple[Array, Array, Array]:
        """(c_skip, c_out, c_in)."""
        total = t**2 + self.sigma_data**2
        return self.sigma_data**2 / total, t * self.sigma_data / jnp.sqrt(total), 1.0 / jnp.sqrt(total)

    def target_coefficients(self, t: Array) -> tuple[Array, Array]:
        """((1 - c_skip) / c_out, -c_skip sigma / c_out), written without the division by c_out, 0 at the data."""
        _, _, c_in = self.preconditioning(t)
        return t / self.sigma_data * c_in, -self.sigma_data * c_in

    def draw_times(self, keys: Keys) -> Float[Array, "b"]:
        """One noise level per example."""
        return self.levels.draw(keys)

    def network_input(self, x_t: Array, t: Array) -> Array:
        """c_in x: unit variance."""
        return expand(self.preconditioning(t)[2], x_t) * x_t

    def network_time(self, t: Array) -> Array:
        """c_noise = log(sigma) / 4."""
        return 0.25 * jnp.log(jnp.maximum(t, 1e-10))

    def clean(self, x0: Array) -> tuple[Array, float]:
        """c_in x0 at sigma = 0, at a time below that of every noise level: 0 would be the time of sigma = 1."""
        return x0 / self.sigma_data, CLEAN

    def unit_time(self, t: Array) -> Array:
        """sigma / (1 + sigma): the time of this signal-to-noise ratio on the straight path."""
        return t / (1.0 + t)

    def start(self, eps: Array, t: Array) -> Array:
        """sigma eps."""
        return expand(t, eps) * eps

    def predict(self, output: Array, x_t: Array, t: Array) -> Prediction:
        """The 2 x 2 solve: x0 = D(x; sigma), eps = (x - D) / sigma."""
        return solve(self, output, x_t, t)

    def losses(self, output: Array, x0: Array, eps: Array, x_t: Array, t: Array) -> dict[str, Float[Array, "b"]]:
        """{"mse": mean square error of F}."""
        p, q = (expand(v, x0) for v in self.target_coefficients(t))
        return {"mse": mean_per_example((p * x0 + q * eps - output) ** 2)}

    def grid(self, request: GridRequest) -> tuple[Process, np.ndarray]:
        """Karras' noise levels, or another spacing by name, then 0."""
        if request.needs.over == "chain":
            raise UserError(f"The sampler {request.sampler} needs a discrete process; choose another for this model.")
        if request.needs.over == "path":
            raise UserError(
                f"The sampler {request.sampler} needs a path between data and noise; use Karras with churn for Edm."
            )
        why = "it is of the noise levels of discrete steps"
        request.refuse(whole=why, begin=why)
        return self, level_grid(request, self.sigma_min, self.sigma_max, "karras")
