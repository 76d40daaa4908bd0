r"""DPM-Solver, singlestep (Lu et al. 2022a, algorithms 1 to 3) and its "fast" mixture of orders, as UniDiffuser
samples.

A step of order k uses k evaluations inside itself, at the next grid times; with phi1(h) = e^h - 1, phi2 = phi1 / h - 1
and r the share of h = lambda_t - lambda_s at which an inner time lies, for predictions of eps:

    x(r)  = (alpha_r / alpha_s) x_s - sigma_r [ phi1(r h) m_0 + (r / r1) (phi1(r h) / (r h) - 1) (m_1 - m_0) ]
    x_t   = (alpha_t / alpha_s) x_s - sigma_t [ phi1 m_0 + (1/2 r1) phi1 (m_1 - m_0) ]                     (order 2)
    x_t   = (alpha_t / alpha_s) x_s - sigma_t [ phi1 m_0 + (1 / r2) phi2 (m_2 - m_0) ]                     (order 3)

(the second term of x(r) belongs to the second inner time of order 3). "Fast" spends n evaluations as steps of order 3
and, to make up n, a last one or two of orders 2 and 1. The grid has n + 1 times, any; it must end above sigma = 0.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from unified_jax.processes.targets import Process
from unified_jax.samplers.exponential import Node, check_ends, nodes
from unified_jax.samplers.loop import Denoiser
from unified_jax.typing import Keys

Stage = tuple[np.ndarray, np.ndarray]
"""keep `[stages]` and weights `[stages, stages]`: the x after each evaluation, as keep x_s + weights @ m."""


def orders_of(evaluations: int) -> list[int]:
    """Orders of the steps that spend exactly this many evaluations: threes, then what is left."""
    if evaluations < 3:
        return [evaluations] if evaluations else []
    match evaluations % 3:
        case 0:
            return [3] * (evaluations // 3 - 1) + [2, 1]
        case rest:
            return [3] * (evaluations // 3) + [rest]


def stages(points: list[Node]) -> Stage:
    """Coefficients of one step through `points` (its start, inner times and end); the order is len(points) - 1."""
    s, order = points[0], len(points) - 1
    h = points[-1].log_snr - s.log_snr
    r = [(p.log_snr - s.log_snr) / h for p in points]
    keep, weights = np.zeros(order), np.zeros((order, order))
    for i, p in enumerate(points[1:]):
        phi1 = math.expm1(r[i + 1] * h)
        keep[i], weights[i, 0] = p.alpha / s.alpha, -p.sigma * phi1
        if i == 0:
            continue
        last = i == order - 1
        if order == 2:
            share = 0.5 / r[1] * phi1
        else:
            phi2 = phi1 / (r[i + 1] * h) - 1.0
            share = phi2 / r[2] if last else r[2] / r[1] * phi2
        weights[i, i] -= p.sigma * share
        weights[i, 0] += p.sigma * share
    return keep, weights


def dpm_fast(denoise: Denoiser, process: Process, x: Array, grid: Any, keys: Keys) -> Array:
    """x `[b, ...]` at the grid's first time to a sample at its last, one evaluation a grid step; one process only.

    Raises TypeError for a dict of processes, ValueError for a grid that touches alpha = 0 or sigma = 0.
    """
    del keys
    if not isinstance(process, Process):
        raise TypeError("dpm_fast steps one process in its own time; choose another sampler for several modalities.")
    points = nodes(process, grid)
    check_ends(points)
    times = np.asarray(grid)
    orders = orders_of(len(points) - 1)
    starts = np.concatenate([[0], np.cumsum(orders)]).astype(int)
    table = [(times[i : i + k], *stages(points[i : i + k + 1])) for i, k in zip(starts, orders, strict=False)]
    whole = [row for row, k in zip(table, orders, strict=True) if k == 3]
    if whole:
        x = jax.lax.scan(_scanned(denoise), x, jax.tree.map(lambda *v: jnp.stack([jnp.asarray(a) for a in v]), *whole))[
            0
        ]
    for row in table[len(whole) :]:
        x = _step(denoise, x, *map(jnp.asarray, row))
    return x


def _scanned(denoise: Denoiser) -> Callable[[Array, Any], tuple[Array, None]]:
    return lambda x, row: (_step(denoise, x, *row), None)


def _step(denoise: Denoiser, x: Array, times: Array, keep: Array, weights: Array) -> Array:
    said: list[Array] = []
    at = x
    for i in range(times.shape[0]):
        said.append(denoise(at, jnp.full(x.shape[:1], times[i], jnp.result_type(float))).eps)
        at = keep[i] * x + sum(weights[i, j] * m for j, m in enumerate(said))
    return at
