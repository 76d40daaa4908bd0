r"""Rectified flow (Liu et al. 2022; Lipman et al. 2022), in our direction of time.

    x_t = (1 - t) x0 + t eps,      d x_t / d t = eps - x0,      t in [0, 1], 0 = data

The papers integrate noise (0) to data (1); there t_data = 1 - t and the velocity changes sign. Stable Diffusion 3 uses
our direction. The loss is the plain mean square on the target (flow matching, eq. 23), or that of the velocity which a
prediction implies: with D the determinant of `targets`, an error e of the target is an error e / D of the velocity.
Predicting x0 with the velocity's loss suits patches with many numbers (Li & He 2025, "Back to Basics"): noise fills all
directions of a patch and a narrow network cannot carry it through, pictures do not.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.processes.targets import Prediction, Target, coefficients, expand, mean_per_example, solve
from unified_jax.processes.times import LogitNormalTimes, UniformTimes
from unified_jax.typing import Keys

LEAST_DETERMINANT = 0.05
"""Bound on the weight of the velocity loss near the data."""


@dataclass(frozen=True)
class RectifiedFlow:
    """The straight path between data and noise."""

    target: Target = "velocity"
    """What the network predicts. 'eps' is refused: at t = 1 alpha is 0 and eps says nothing about x0."""
    times: UniformTimes | LogitNormalTimes = UniformTimes()
    """Density of the training times."""
    loss: Literal["target", "velocity"] = "target"
    """Mean square on the target itself, or on the velocity it implies (weight 1 / t^2 on x0, with t at least 0.05)."""
    time_scale: float = 1000.0
    """The network is shown time_scale * t (1,000 suits sinusoidal embeddings made for discrete steps; SiT uses 1)."""

    def __post_init__(self) -> None:
        if self.target == "eps":
            raise ValueError(
                "RectifiedFlow reaches alpha = 0 at t = 1, where the target 'eps' says nothing about x0; "
                "choose target 'velocity', 'v' or 'x0'."
            )
        if self.time_scale <= 0:
            raise ValueError(f"RectifiedFlow.time_scale must be positive, found {self.time_scale}.")

    @property
    def channels_per_output(self) -> int:
        """1: no variance is learned."""
        return 1

    def alpha_sigma(self, t: Array) -> tuple[Array, Array]:
        """(1 - t, t)."""
        return 1.0 - t, t

    def target_coefficients(self, t: Array) -> tuple[Array, Array]:
        """(p, q) of `target = p x0 + q eps`."""
        alpha, sigma = self.alpha_sigma(t)
        return coefficients(self.target, alpha, sigma, -jnp.ones_like(t), jnp.ones_like(t))

    def draw_times(self, keys: Keys) -> Float[Array, "b"]:
        """One training time an example, in [0, 1]."""
        return self.times.draw(keys)

    def network_time(self, t: Array) -> Array:
        """time_scale * t."""
        return self.time_scale * t

    def unit_time(self, t: Array) -> Array:
        """t itself."""
        return t

    def predict(self, output: Array, x_t: Array, t: Array) -> Prediction:
        """The 2 x 2 solve."""
        return solve(self, output, x_t, t)

    def losses(self, output: Array, x0: Array, eps: Array, x_t: Array, t: Array) -> dict[str, Float[Array, "b"]]:
        """{"mse": mean square error on the target, or on the implied velocity}."""
        p, q = self.target_coefficients(t)
        error = mean_per_example((expand(p, x0) * x0 + expand(q, x0) * eps - output) ** 2)
        if self.loss == "velocity":
            alpha, sigma = self.alpha_sigma(t)
            error = error / jnp.maximum(jnp.abs(alpha * q - sigma * p), LEAST_DETERMINANT) ** 2
        return {"mse": error}
