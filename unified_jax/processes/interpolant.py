r"""Flows and stochastic interpolants in continuous time (Lipman et al. 2022; Liu et al. 2022; SiT, Ma et al. 2024).

    x_t = alpha(t) x0 + sigma(t) eps,      d x_t / d t = alpha' x0 + sigma' eps,      t in [0, 1], 0 = data

with a path from `paths`; the straight path (the default) is rectified flow, whose velocity is eps - x0. The papers
integrate noise (0) to data (1); there t_data = 1 - t and the velocity changes sign. Stable Diffusion 3 uses our
direction.

The network predicts the velocity, x0, eps, v, or the score -eps / sigma. A score is read as eps = -sigma output and its
loss is that of eps (SiT, transport.py). A path that reaches alpha = 0 has no eps or score there: its times must end
before, at `noise_end` (SiT takes 1 - 1e-3). The loss is the mean square on the target times a weight of `weights`;
`direction_weight` adds 1 - cos(predicted, true velocity) over the channels (FasterDiT; LightningDiT).

Predicting x0 with the velocity loss suits patches of many dimensions (Li & He 2025, "Back to Basics"): noise fills all
directions of a patch, which a narrow network cannot transmit; images do not.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.config import check_finite
from unified_jax.processes.grids import GridRequest, time_grid
from unified_jax.processes.paths import Gvp, InterpolatedVp, Linear, Vp
from unified_jax.processes.targets import (
    Prediction,
    Process,
    Target,
    coefficients,
    expand,
    mean_per_example,
    rates,
    solve,
    velocity,
)
from unified_jax.processes.times import Times, UniformTimes
from unified_jax.processes.weights import Weighting, loss_weight
from unified_jax.typing import Keys


@dataclass(frozen=True)
class Interpolant:
    """A continuous path between data and noise, and the target that the network predicts."""

    target: Target | Literal["score"] = "velocity"
    """What the network predicts: 'velocity', 'x0', 'v', 'eps' or 'score'."""
    path: Linear | Gvp | Vp | InterpolatedVp = Linear()
    """alpha(t) and sigma(t); the straight path is rectified flow."""
    times: Times = UniformTimes()
    """Density of the training times."""
    loss: Weighting = "target"
    """Weighting of the mean square over time ('velocity': the error of the implied velocity)."""
    snr_gamma: float = 5.0
    """gamma of the weighting 'min_snr'."""
    direction_weight: float = 0.0
    """Weight of the direction term 1 - cos(velocity)."""
    data_end: float = 0.0
    """Smallest time that is trained and sampled."""
    noise_end: float = 1.0
    """Largest time that is trained and sampled."""
    time_scale: float = 1000.0
    """The network's time input is time_scale * t (1,000 suits sinusoidal embeddings of discrete steps)."""
    reversed_time: bool = False
    """The network counts time from noise to data, as SiT's checkpoints do: its input is time_scale * (1 - t), and its
    velocity points towards the data."""

    def __post_init__(self) -> None:
        check_finite(self)
        if not 0.0 <= self.data_end < self.noise_end <= 1.0:
            raise ValueError(
                f"Interpolant needs 0 <= data_end < noise_end <= 1, found {self.data_end} and {self.noise_end}."
            )
        if self.target in ("eps", "score") and self.path.reaches_noise and self.noise_end == 1.0:
            raise ValueError(
                f"Interpolant over {type(self.path).__name__} reaches alpha = 0 at t = 1, where the target "
                f"{self.target!r} says nothing about x0; choose target 'velocity', 'v' or 'x0', or a noise_end "
                "below 1 such as 0.999."
            )
        steep = isinstance(self.path, Vp | InterpolatedVp) and self.data_end == 0.0
        if steep and (self.target == "velocity" or self.loss in ("velocity", "likelihood") or self.direction_weight):
            raise ValueError(
                f"Interpolant over {type(self.path).__name__} has an unbounded sigma' at t = 0, so the target and the "
                "loss 'velocity' and the direction term need a data_end above 0 such as 0.001."
            )
        if self.time_scale <= 0 or self.snr_gamma <= 0 or self.direction_weight < 0:
            raise ValueError(
                "Interpolant.time_scale and snr_gamma must be positive and direction_weight not negative; found "
                f"{self.time_scale}, {self.snr_gamma} and {self.direction_weight}."
            )

    @property
    def channels_per_output(self) -> int:
        """1: the variance is not learned."""
        return 1

    @property
    def noise_time(self) -> float:
        """The time of pure noise."""
        return self.noise_end

    def alpha_sigma(self, t: Array) -> tuple[Array, Array]:
        """alpha and sigma of the path."""
        return self.path.alpha_sigma(t)

    def time_of_level(self, level: Array) -> Array:
        """The t with sigma / alpha = level."""
        return self.path.time_of_level(level)

    def target_coefficients(self, t: Array) -> tuple[Array, Array]:
        """(p, q) of `target = p x0 + q eps`; a score counts as eps."""
        alpha, sigma = self.alpha_sigma(t)
        return coefficients("eps" if self.target == "score" else self.target, alpha, sigma, *rates(self, t))

    def draw_times(self, keys: Keys) -> Float[Array, "b"]:
        """One training time per example, in [data_end, noise_end]."""
        return self.data_end + (self.noise_end - self.data_end) * self.times.draw(keys)

    def network_input(self, x_t: Array, t: Array) -> Array:
        """x_t itself."""
        del t
        return x_t

    def network_time(self, t: Array) -> Array:
        """time_scale * t, or time_scale * (1 - t) where the network's time is reversed."""
        return self.time_scale * (1.0 - t if self.reversed_time else t)

    def unit_time(self, t: Array) -> Array:
        """t itself."""
        return t

    def start(self, eps: Array, t: Array) -> Array:
        """Sampling begins at eps itself, as SiT's does: of noise_end below 1 that is more noise than x_t has."""
        del t
        return eps

    def predict(self, output: Array, x_t: Array, t: Array) -> Prediction:
        """The 2 x 2 solve."""
        return solve(self, self._read(output, t), x_t, t)

    def losses(self, output: Array, x0: Array, eps: Array, x_t: Array, t: Array) -> dict[str, Float[Array, "b"]]:
        """{"mse": weighted mean square error}, and {"direction"} if it has a weight."""
        p, q = self.target_coefficients(t)
        alpha, sigma = self.alpha_sigma(t)
        output = self._read(output, t)
        weight = loss_weight(self.loss, alpha, sigma, p, q, rates(self, t), self.snr_gamma)
        target = expand(p, x0) * x0 + expand(q, x0) * eps
        terms = {"mse": mean_per_example(expand(weight, x0) * (target - output) ** 2)}
        if self.direction_weight:
            said = velocity(self, solve(self, output, x_t, t), t)
            terms["direction"] = self.direction_weight * direction_loss(said, velocity(self, Prediction(x0, eps), t))
        return terms

    def grid(self, request: GridRequest) -> tuple[Process, np.ndarray]:
        """Times from `noise_end` down to `data_end`."""
        return self, time_grid(self, request, self.noise_end, self.data_end)

    def _read(self, output: Array, t: Array) -> Array:
        if self.target == "score":
            return -expand(self.alpha_sigma(t)[1], output) * output
        return -output if self.reversed_time and self.target == "velocity" else output


RectifiedFlow = Interpolant
"""Rectified flow: an Interpolant on the straight path."""


def direction_loss(predicted: Array, true: Array) -> Float[Array, "b"]:
    """Mean over positions of 1 - cos, the cosine over the last axis (channels)."""
    dot = jnp.sum(predicted * true, axis=-1)
    length = jnp.sqrt(jnp.sum(predicted**2, -1)) * jnp.sqrt(jnp.sum(true**2, -1))
    return mean_per_example(1.0 - dot / jnp.maximum(length, 1e-8))
