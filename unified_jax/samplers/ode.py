r"""The probability-flow ODE of a process in continuous time, d x / d t = alpha'(t) x0_hat + sigma'(t) eps_hat.

Euler is first order. Heun (Karras et al. 2022, algorithm 1) averages the slopes at both ends of a step and is second
order; like there, the step that ends at t = 0 is an Euler step, because the slope at the data may be singular, which
leaves the order.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.processes.targets import Prediction, Process, velocity
from unified_jax.samplers.loop import Denoiser, at_time, scan_steps, step_pairs
from unified_jax.typing import Keys


def euler_step(process: Process, prediction: Prediction, x_t: Array, t: Array, s: Array, noise: Array) -> Array:
    """x_s = x_t + (s - t) d x / d t."""
    del noise
    return x_t + (s - t) * velocity(process, prediction, jnp.broadcast_to(t, x_t.shape[:1]))


def euler(denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
    """First order; one denoiser call a step."""
    return scan_steps(euler_step, denoise, process, x, grid, keys, draw=None)


def heun(denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
    """Second order; two denoiser calls a step but the last one, 2 k - 1 in all."""
    del keys
    here, there = step_pairs(process, grid)

    def slope(x: Any, t: Any) -> Any:
        prediction = denoise(x, at_time(process, t, x))
        return jax.tree.map(
            lambda p, pred, value, time: velocity(p, pred, jnp.broadcast_to(time, value.shape[:1])),
            process, prediction, x, t,
        )  # fmt: skip

    def forward(x: Any, d: Any, t: Any, s: Any) -> Any:
        return jax.tree.map(lambda _, value, rate, a, b: value + (b - a) * rate, process, x, d, t, s)

    def body(x: Any, times: Any) -> tuple[Any, None]:
        t, s = times
        first = slope(x, t)
        second = slope(forward(x, first, t, s), s)
        return forward(x, jax.tree.map(lambda a, b: 0.5 * (a + b), first, second), t, s), None

    inner = jax.tree.map(lambda g: g[:-1], (here, there))
    last_t, last_s = jax.tree.map(lambda g: g[-1], (here, there))
    x = jax.lax.scan(body, x, inner)[0]
    return forward(x, slope(x, last_t), last_t, last_s)
