r"""DPM-Solver, singlestep, and its "fast" mixture of orders, as in UniDiffuser.

Lu et al. 2022a, algorithms 1 to 3.

A step of order k makes k evaluations, at the next grid times. With u = h = lambda_t - lambda_s for
predictions m of eps and u = -h for x0, S = sigma (of eps) or alpha (of x0), K = alpha (of eps) or sigma (of x0), r the
share of h of an inner time, and e(r) = exp(r u) - 1:

    x(r) = (K_r / K_s) x_s - S_r [ e(r) m_0 + (r / r1) (e(r) / (r u) - 1) (m_1 - m_0) ]
    x_t  = (K_t / K_s) x_s - S_t [ e(1) m_0 + (1 / 2 r1) e(1) (m_1 - m_0) ]                              (order 2)
    x_t  = (K_t / K_s) x_s - S_t [ e(1) m_0 + (1 / r2) (e(1) / u - 1) (m_2 - m_0) ]                      (order 3)

(the second term of x(r) belongs to the second inner time of order 3). "Fast" uses n evaluations for steps of order 3
and, for the rest, one or two last steps of orders 2 and 1. The grid has any n + 1 times.
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
    """Orders of the steps that use exactly this many evaluations: threes, then the rest.

    >>> orders_of(8)
    [3, 3, 2]
    """
    if evaluations < 3:
        return [evaluations] if evaluations else []
    match evaluations % 3:
        case 0:
            return [3] * (evaluations // 3 - 1) + [2, 1]
        case rest:
            return [3] * (evaluations // 3) + [rest]


def stages(points: list[Node], of_eps: bool = True) -> Stage:
    """Coefficients of one step through `points` (its start, inner times and end); the order is len(points) - 1."""
    s, order = points[0], len(points) - 1
    h = points[-1].log_snr - s.log_snr
    u = h if of_eps else -h
    r = [(p.log_snr - s.log_snr) / h for p in points]
    keep, weights = np.zeros(order), np.zeros((order, order))
    for i, p in enumerate(points[1:]):
        e, scale = math.expm1(r[i + 1] * u), p.sigma if of_eps else p.alpha
        keep[i], weights[i, 0] = p.alpha / s.alpha if of_eps else p.sigma / s.sigma, -scale * e
        if i == 0:
            continue
        phi2 = e / (r[i + 1] * u) - 1.0
        third = phi2 / r[2] if i == 2 else r[-2] / r[1] * phi2
        share = 0.5 / r[1] * e if order == 2 else third
        weights[i, i] -= scale * share
        weights[i, 0] += scale * share
    return keep, weights


def dpm_fast(denoise: Denoiser, process: Process, x: Array, grid: Any, keys: Keys, of_eps: bool = True) -> Array:
    """Integrates x `[b, ...]` from the grid's first time to a sample at its last, one evaluation per grid step.

    Raises TypeError for a dict of processes, ValueError for a grid that touches alpha = 0 or sigma = 0.
    """
    del keys
    if not isinstance(process, Process):
        raise TypeError("dpm_fast steps a single process; choose another sampler for several modalities.")
    points = nodes(process, grid)
    check_ends(points)  # of x0 too: the last step may be of order 2, whose h must be finite
    times = np.asarray(grid)
    orders = orders_of(len(points) - 1)
    starts = np.concatenate([[0], np.cumsum(orders)]).astype(int)
    table = [(times[i : i + k], *stages(points[i : i + k + 1], of_eps)) for i, k in zip(starts, orders, strict=False)]
    whole = [row for row, k in zip(table, orders, strict=True) if k == 3]
    if whole:
        rows = jax.tree.map(lambda *v: jnp.stack([jnp.asarray(a) for a in v]), *whole)
        x = jax.lax.scan(_scanned(denoise, of_eps), x, rows)[0]
    for row in table[len(whole) :]:
        x = _step(denoise, of_eps, x, *map(jnp.asarray, row))
    return x


def _scanned(denoise: Denoiser, of_eps: bool) -> Callable[[Array, Any], tuple[Array, None]]:
    return lambda x, row: (_step(denoise, of_eps, x, *row), None)


def _step(denoise: Denoiser, of_eps: bool, x: Array, times: Array, keep: Array, weights: Array) -> Array:
    said: list[Array] = []
    at = x
    for i in range(times.shape[0]):
        prediction = denoise(at, jnp.full(x.shape[:1], times[i], jnp.result_type(float)))
        said.append(prediction.eps if of_eps else prediction.x0)
        at = keep[i] * x + sum(weights[i, j] * m for j, m in enumerate(said))
    return at
