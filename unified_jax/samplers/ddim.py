r"""DDIM (Song et al. 2020, eq. 12), for any Gaussian path and any pair of times t > s.

    x_s = alpha_s x0_hat + sqrt(sigma_s^2 - std^2) eps_hat + std z
    std = eta (sigma_s / sigma_t) sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2)

For variance-preserving paths this is the paper's eta sqrt((1 - b) / (1 - a)) sqrt(1 - a / b). eta = 0 is
deterministic, eta = 1 has the posterior variance beta~.

Over an increasing grid it is the inversion (section 4.3): the same update from a sample to its noise. The inversion
needs eps at the data itself. A network that predicts x0 does not determine eps there (sigma = 0). Close to it, the
error of x0 is divided by sigma: start at about t = 0.02 with such a model.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from unified_jax.processes.targets import Prediction, Process
from unified_jax.samplers.loop import Denoiser, Draw, normal_like, scan_steps
from unified_jax.typing import Keys


def ddim_step(
    process: Process, prediction: Prediction, x_t: Array, t: Array, s: Array, noise: Array, *, eta: float = 0.0
) -> Array:
    """One step from time t to time s (scalars)."""
    alpha_s, sigma_s = process.alpha_sigma(s)
    if eta == 0:
        return alpha_s * prediction.x0 + sigma_s * prediction.eps
    alpha_t, sigma_t = process.alpha_sigma(t)
    transition = jnp.maximum(sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2, 0.0)
    std = eta * sigma_s / sigma_t * jnp.sqrt(transition)
    direction = jnp.sqrt(jnp.maximum(sigma_s**2 - std**2, 0.0))
    return alpha_s * prediction.x0 + direction * prediction.eps + std * noise


def check_direction(process: Process, grid: Any, eta: float = 0.0) -> None:
    """Raises ValueError for an inversion (an increasing grid) that cannot be right; traced times are not checked."""
    if isinstance(grid, Tracer) or grid[0] >= grid[-1]:
        return
    if eta:
        raise ValueError(f"DDIM inversion (an increasing grid) needs eta = 0, found {eta}.")
    with jax.ensure_compile_time_eval():
        t = jnp.asarray(grid[:1])
        (alpha, sigma), (p, q) = process.alpha_sigma(t), process.target_coefficients(t)
        silent = bool((alpha * q - sigma * p == 0)[0])
    if silent:
        raise ValueError(
            f"DDIM cannot start an inversion at t = {float(grid[0]):g}: {type(process).__name__}'s prediction of x0 "
            "says nothing about eps where sigma = 0. Start the grid later, at about 0.02 of the way to the noise."
        )


def ddim(
    denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys, eta: float = 0.0, draw: Draw = normal_like
) -> Any:
    """Integrates x `[b, ...]` from the grid's first time to a sample at its last. eta >= 0; 0 adds no noise.

    Raises ValueError for an inversion with noise, or from a time at which the target does not determine eps.
    """
    jax.tree.map(functools.partial(check_direction, eta=eta), process, grid)
    step = functools.partial(ddim_step, eta=eta)
    return scan_steps(step, denoise, process, x, grid, keys, None if eta == 0 else draw)
