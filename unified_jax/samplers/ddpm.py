r"""Ancestral sampling of discrete diffusion (Ho et al. 2020, algorithm 2).

    x_{t-1} = mean(x_t, x0_hat) + exp(log_variance / 2) z,      z = 0 at the last step

The grid is every step of the process, T-1, ..., 0, -1 (`grids.discrete_grid`); for fewer steps respace the process,
which changes its betas and hence its variances. The mean is the posterior's with the predicted x0, so a clipped x0 acts
on the mean.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.targets import Prediction
from unified_jax.samplers.loop import Denoiser, Draw, normal_like, scan_steps
from unified_jax.typing import Keys


def ddpm_step(process: DiscreteGaussian, prediction: Prediction, x_t: Array, t: Array, s: Array, noise: Array) -> Array:
    """One reverse step from index t to t - 1; s only marks the last step, which adds no noise."""
    batch_t = jnp.broadcast_to(t, x_t.shape[:1])
    mean, log_variance = process.reverse(prediction, x_t, batch_t)
    return mean + jnp.where(s < 0, 0.0, 1.0) * jnp.exp(0.5 * log_variance) * noise


def ddpm(denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys, draw: Draw = normal_like) -> Any:
    """Integrates x `[b, ...]` from the grid's first index to a sample."""
    return scan_steps(ddpm_step, denoise, process, x, grid, keys, draw)
