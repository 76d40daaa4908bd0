"""Family `dpm_solver_pp`: UniDiffuser's DPM-Solver over a discrete process in continuous time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify import Unserved
from unified_jax.certify.options import Check, anything, count, each, require
from unified_jax.processes.interpolant import Interpolant
from unified_jax.processes.paths import InterpolatedVp
from unified_jax.processes.targets import Prediction, expand
from unified_jax.samplers.dpm_fast import dpm_fast

TOP: dict[str, Check] = {"seed": anything, "shape": anything, "steps": each(count)}


def path_of(betas: np.ndarray) -> InterpolatedVp:
    """The path over these betas. Raises Unserved unless they, or their square roots, are evenly spaced."""
    total, low, high = len(betas), float(betas[0]), float(betas[-1])
    if np.allclose(betas, np.linspace(low, high, total), rtol=1e-5, atol=0.0):
        return InterpolatedVp("linear", total, *(float(f"{end:.6g}") for end in (low, high)))
    if np.allclose(betas, np.linspace(low**0.5, high**0.5, total) ** 2, rtol=1e-5, atol=0.0):
        return InterpolatedVp("scaled_linear", total, *(float(f"{end:.6g}") for end in (low, high)))
    raise Unserved("in/betas is not served for schedules other than linear and scaled_linear")


def run(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """The schedule's functions, and DPM-Solver-fast of eps ("x00") and of x0 ("x01")."""
    require(config, TOP)
    process = Interpolant("eps", path_of(tensors["in/betas"]))
    t = jnp.asarray(tensors["in/t"])
    alpha, sigma = process.alpha_sigma(t)
    out: dict[str, Any] = {"alpha": alpha, "std": sigma, "log_alpha": jnp.log(alpha)}
    out["lambda"] = jnp.log(alpha) - jnp.log(sigma)
    out["t_from_lambda"] = process.time_of_level(sigma / alpha)

    def denoise(x: Any, time: Any) -> Prediction:
        time = expand(time, x)
        eps = 0.6 * x * jnp.cos(time) + 0.25 * jnp.sin(2 * x) - 0.1 * time
        return process.predict(eps, x, time.reshape(len(x)))

    x = jnp.asarray(tensors["in/x"])
    keys = jax.random.split(jax.random.key(0), len(x))
    for steps in config["steps"]:
        grid = np.linspace(1.0, 1.0 / len(tensors["in/betas"]), steps + 1)
        for name, of_eps in (("x00", True), ("x01", False)):
            draw = jax.jit(functools.partial(dpm_fast, denoise, process, grid=grid, keys=keys, of_eps=of_eps))
            out[f"fast.{name}.{steps}"] = draw(x=x)
            out[f"fast.{name}.{steps}.times"] = grid[:-1]
    return out
