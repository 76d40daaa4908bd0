r"""The probability-flow ODE of a process in continuous time, d x / d t = alpha'(t) x0_hat + sigma'(t) eps_hat.

Euler is first order. Heun (Karras et al. 2022, algorithm 1) averages the slopes at both ends of a step and is second
order. As there, the step that ends at t = 0 is an Euler step, since the slope may be singular at the data; the order
stays 2. `explicit_step` is a step of any explicit Runge-Kutta method, for fields that are regular at the data.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.processes.targets import Prediction, Process, velocity
from unified_jax.samplers.loop import Denoiser, at_time, scan_steps, step_pairs
from unified_jax.typing import Keys


class Tableau(NamedTuple):
    """An explicit Runge-Kutta method: slope i is taken at t + nodes[i] h, from y + h sum_j stages[i][j] k_j."""

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


Method = Literal["euler", "midpoint", "heun", "heun3", "rk4"]
"""Fixed-step methods, of order 1, 2, 2, 3 and 4."""

TABLEAUS: dict[Method, Tableau] = {
    "euler": Tableau((0.0,), ((),), (1.0,)),
    "midpoint": Tableau((0.0, 1 / 2), ((), (1 / 2,)), (0.0, 1.0)),
    "heun": Tableau((0.0, 1.0), ((), (1.0,)), (1 / 2, 1 / 2)),
    "heun3": Tableau((0.0, 1 / 3, 2 / 3), ((), (1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4)),
    "rk4": Tableau(
        (0.0, 1 / 3, 2 / 3, 1.0), ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)
    ),
}
"""Heun (1900) for the third order; Kutta's 3/8 rule (1901) for the fourth, as in torchdiffeq."""


def explicit_step(tableau: Tableau, field: Callable[[Any, Any], Any], y: Any, t: Any, s: Any) -> Any:
    """y(s) from y(t), a tree of arrays, along d y / d t = field(y, t); t and s are scalars.

    >>> round(explicit_step(TABLEAUS["rk4"], lambda y, t: y, 1.0, 0.0, 1.0), 4)  # e = 2.7183
    2.7083
    """

    def along(row: tuple[float, ...], slopes: list[Any]) -> Any:
        used = [(c, k) for c, k in zip(row, slopes, strict=True) if c]
        return jax.tree.map(
            lambda value, *k: value + (s - t) * sum((c * v for (c, _), v in zip(used, k, strict=True)), 0.0),
            y, *(k for _, k in used),
        )  # fmt: skip

    slopes: list[Any] = []
    for node, row in zip(tableau.nodes, tableau.stages, strict=True):
        slopes.append(field(along(row, slopes), s if node == 1.0 else t + node * (s - t)))
    return along(tableau.weights, slopes)


def euler_step(process: Process, prediction: Prediction, x_t: Array, t: Array, s: Array, noise: Array) -> Array:
    """x_s = x_t + (s - t) d x / d t."""
    del noise
    return x_t + (s - t) * velocity(process, prediction, jnp.broadcast_to(t, x_t.shape[:1]))


def euler(denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
    """Euler's method: first order, one denoiser call per step."""
    return scan_steps(euler_step, denoise, process, x, grid, keys, draw=None)


def heun(denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
    """Heun's method: second order, two denoiser calls per step except the last, 2 k - 1 in all."""
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
