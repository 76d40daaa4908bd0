r"""Exponential integrators in lambda = log(alpha / sigma), as tables of numbers: shared by DPM-Solver and UniPC.

Between two times s > t, with h = lambda_t - lambda_s, the probability-flow ODE is solved exactly except for the
prediction (Lu et al. 2022b, eq. 9; Lu et al. 2022a, eq. 3.4):

    x_t = (sigma_t / sigma_s) x_s + sigma_t int_{lambda_s}^{lambda_t} e^lambda x0_hat d lambda          of x0
    x_t = (alpha_t / alpha_s) x_s - alpha_t int_{lambda_s}^{lambda_t} e^-lambda eps_hat d lambda        of eps

so a solver that fits a polynomial to the last predictions is a linear multistep method, x_t = a x_s + sum_j c_j m_j,
whose coefficients depend only on the grid. They are computed once, in NumPy and float64, before compilation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.processes.targets import Prediction, Process
from unified_jax.samplers.loop import Denoiser, Draw, at_time, step_pairs
from unified_jax.typing import Keys

LEAST_ALPHA = 1e-6
"""alpha at the noise end of a path that reaches 0 there, so that lambda stays finite (as in diffusers)."""


class Node(NamedTuple):
    """alpha, sigma and lambda of one time of the grid."""

    alpha: float
    sigma: float
    log_snr: float


class Multistep(NamedTuple):
    """x' = keep x + sum_j weights[j] m_j + noise z for every step; m_0 is the newest prediction."""

    keep: Float[np.ndarray, "k"]
    weights: Float[np.ndarray, "k order"]
    noise: Float[np.ndarray, "k"]


def nodes(process: Process, grid: Any) -> list[Node]:
    """alpha, sigma, lambda along a grid, float64. Raises TypeError for a traced grid."""
    if isinstance(grid, jax.core.Tracer):
        raise TypeError("A multistep solver computes its coefficients before compiling: give the grid as numbers.")
    with jax.ensure_compile_time_eval():
        alpha, sigma = process.alpha_sigma(jnp.asarray(grid))
        alpha, sigma = np.asarray(alpha, np.float64), np.asarray(sigma, np.float64)
    with np.errstate(divide="ignore"):
        log_snr = np.log(np.maximum(alpha, LEAST_ALPHA)) - np.log(sigma)
    return [Node(*map(float, row)) for row in zip(alpha, sigma, log_snr, strict=True)]


def check_ends(points: list[Node]) -> None:
    """Raises ValueError for a grid that a solver for eps cannot use."""
    if points[-1].sigma == 0 or points[0].alpha == 0:
        raise ValueError(
            "A solver for eps can neither start at alpha = 0 nor end at sigma = 0; shorten the grid, or solve for x0."
        )


def order_at(step: int, steps: int, order: int, lower_final: bool, last_is_data: bool) -> int:
    """The order of a step: it grows from 1; `lower_final` and a last step to sigma = 0 lower it at the end."""
    order = min(order, step + 1)
    if lower_final:
        return min(order, steps - step)
    return 1 if last_is_data and step == steps - 1 else order


def run_multistep(
    tables: Any, read: Callable[[Prediction], Array], denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys,
    draw: Draw | None,
) -> Any:  # fmt: skip
    """Scans a tree of `Multistep` tables; `read` selects x0 or eps of a prediction."""
    here, _ = step_pairs(process, grid)
    depth = jax.tree.leaves(tables)[1].shape[1]  # the order: columns of `weights`, the second leaf
    tables = jax.tree.map(lambda table: jnp.asarray(table, jnp.result_type(float)), tables)

    def one(_: Any, value: Array, table: Any, noise: Array, *history: Array) -> Array:
        total = table.keep * value + table.noise * noise
        for j, m in enumerate(history):
            total = total + table.weights[j] * m
        return total

    def body(carry: Any, inputs: Any) -> tuple[Any, None]:
        x, older = carry
        i, t, table = inputs
        said = denoise(x, at_time(process, t, x))
        newest = jax.tree.map(lambda _, prediction: read(prediction), process, said)
        noise = jax.tree.map(jnp.zeros_like, x) if draw is None else draw(keys, i, x)
        history = (newest, *older)  # zeros before the first step, whose weights are 0 too
        return (jax.tree.map(one, process, x, table, noise, *history), history[: depth - 1]), None

    count = jax.tree.leaves(here)[0].shape[0]
    older = tuple(jax.tree.map(jnp.zeros_like, x) for _ in range(depth - 1))
    return jax.lax.scan(body, (x, older), (jnp.arange(count), here, tables))[0][0]
