r"""UniPC (Zhao et al. 2023): a predictor and a corrector of the same exponential integrator, orders 1 to 3.

With u = -h for predictions of x0 and u = h for eps, base = (sigma_t / sigma_s) x_s - alpha_t (e^u - 1) m_0 (of x0) or
(alpha_t / alpha_s) x_s - sigma_t (e^u - 1) m_0 (of eps), B(h) = u ("bh1") or e^u - 1 ("bh2"), and D_k = (m_k - m_0) /
r_k, r_k = (lambda_k - lambda_s) / h:

    x_t = base - scale B(h) sum_k rho_k D_k,        sum_k rho_k r_k^(n-1) = n! u phi_{n+1}(u) / B(h)            (eq. 5)
    phi_1(u) = (e^u - 1) / u,        phi_{n+1}(u) = (phi_n(u) - 1 / n!) / u

The predictor uses the past k = 1 .. p-1; the corrector also the new point (r = 1), evaluated at the predicted x_t. Each
step first corrects its x, then predicts the next: one denoiser call per step. rho of order 2 of the predictor and of
order 1 of the corrector is 1/2 (the paper's simplification). The last step is not corrected.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.processes.targets import Process
from unified_jax.samplers.exponential import Node, check_ends, nodes, order_at
from unified_jax.samplers.loop import Denoiser, at_time, step_pairs
from unified_jax.typing import Keys

B = Literal["bh1", "bh2"]


class Steps(NamedTuple):
    """Row i corrects the x of step i - 1, then predicts x_{i+1}.

    corrected = keep x_{i-1} + weights [m_{i-1}, ..., m_i]
    """

    correct: Float[np.ndarray, "k"]
    correct_keep: Float[np.ndarray, "k"]
    correct_weights: Float[np.ndarray, "k order_plus_1"]
    keep: Float[np.ndarray, "k"]
    weights: Float[np.ndarray, "k order"]


def unipc_table(
    process: Process, grid: Any, order: int = 2, kind: B = "bh2", of_eps: bool = False,
    uncorrected: tuple[int, ...] = (), lower_final: bool = True,
) -> Steps:  # fmt: skip
    """Coefficients of every step; steps in `uncorrected` are not corrected.

    Raises ValueError for an unknown order, or with `of_eps` for a grid that reaches alpha = 0 or sigma = 0.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"UniPC has orders 1, 2 and 3, found {order}.")
    points = nodes(process, grid)
    if of_eps:
        check_ends(points)
    count = len(points) - 1
    rows = Steps(
        np.zeros(count), np.zeros(count), np.zeros((count, order + 1)), np.zeros(count), np.zeros((count, order))
    )
    for i in range(count):
        now = order_at(i, count, order, lower_final, points[-1].sigma == 0)
        past = [points[j] for j in range(i, i - now, -1)]
        rows.keep[i], rows.weights[i, :now] = _predictor(past, points[i + 1], kind, of_eps)
        if i + 1 < count and i not in uncorrected:
            keep, weights = _corrector(past, points[i + 1], kind, of_eps)
            rows.correct[i + 1], rows.correct_keep[i + 1] = 1.0, keep
            rows.correct_weights[i + 1, :now], rows.correct_weights[i + 1, -1] = weights[:-1], weights[-1]
    return rows


def _terms(past: list[Node], t: Node, kind: B, of_eps: bool) -> tuple[float, float, float, list[float], np.ndarray]:
    """keep, weight of m_0 in base, scale B(h), the r_k of the past and b_n, n = 1 .. p."""
    s, order = past[0], len(past)
    h = t.log_snr - s.log_snr
    u = h if of_eps else -h
    scale = t.sigma if of_eps else t.alpha
    first = math.expm1(u)
    if not of_eps:  # exact at alpha_s = 0 and sigma_t = 0
        first = (s.alpha * t.sigma) / (s.sigma * t.alpha) - 1.0
    keep = t.alpha / s.alpha if of_eps else t.sigma / s.sigma
    if t.sigma == 0:
        return keep, -scale * first, 0.0, [], np.zeros(1)
    size = u if kind == "bh1" else math.expm1(u)
    b, phi, factorial = [], math.expm1(u) / u - 1.0, 1
    for n in range(1, order + 1):
        b.append(phi * factorial / size)
        factorial *= n + 1
        phi = phi / u - 1.0 / factorial
    return keep, -scale * first, scale * size, [(p.log_snr - s.log_snr) / h for p in past[1:]], np.asarray(b)


def _predictor(past: list[Node], t: Node, kind: B, of_eps: bool) -> tuple[float, np.ndarray]:
    keep, base, scale, r, b = _terms(past, t, kind, of_eps)
    weights = np.zeros(len(past))
    weights[0] = base
    if len(past) == 1:
        return keep, weights
    rho = np.asarray([0.5])
    if len(past) > 2:
        rho = np.linalg.solve(np.stack([np.asarray(r) ** n for n in range(len(r))]), b[:-1])
    return keep, _add(weights, rho, r, scale)


def _corrector(past: list[Node], t: Node, kind: B, of_eps: bool) -> tuple[float, np.ndarray]:
    keep, base, scale, r, b = _terms(past, t, kind, of_eps)
    weights = np.zeros(len(past) + 1)
    weights[0] = base
    r = [*r, 1.0]
    rho = np.asarray([0.5])
    if len(past) > 1:
        rho = np.linalg.solve(np.stack([np.asarray(r) ** n for n in range(len(r))]), b)
    return keep, _add(weights, rho, r, scale)


def _add(weights: np.ndarray, rho: np.ndarray, r: list[float], scale: float) -> np.ndarray:
    """base - scale sum_k rho_k (m_k - m_0) / r_k."""
    for k, (share, place) in enumerate(zip(rho, r, strict=True), start=1):
        weights[k] -= scale * share / place
        weights[0] += scale * share / place
    return weights


def unipc(
    denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys, order: int = 2, kind: B = "bh2",
    of_eps: bool = False, uncorrected: tuple[int, ...] = (), lower_final: bool = True,
) -> Any:  # fmt: skip
    """Integrates x `[b, ...]` from the grid's first time to a sample at its last; one denoiser call per step."""
    del keys
    tables = jax.tree.map(lambda p, g: unipc_table(p, g, order, kind, of_eps, uncorrected, lower_final), process, grid)
    tables = jax.tree.map(lambda table: jnp.asarray(table, jnp.result_type(float)), tables)
    here, _ = step_pairs(process, grid)

    def weigh(weights: Array, history: tuple[Array, ...]) -> Array:
        return sum((weights[j] * m for j, m in enumerate(history)), jnp.zeros_like(history[0]))

    def corrected(_: Any, x: Array, before: Array, row: Any, new: Array, *older: Array) -> Array:
        fixed = row.correct_keep * before + weigh(row.correct_weights, (*older, new))
        return jnp.where(row.correct > 0, fixed, x)

    def predicted(_: Any, x: Array, row: Any, *history: Array) -> Array:
        return row.keep * x + weigh(row.weights, history)

    def body(carry: Any, inputs: Any) -> tuple[Any, None]:
        x, before, older = carry
        t, row = inputs
        said = denoise(x, at_time(process, t, x))
        new = jax.tree.map(lambda _, p: p.eps if of_eps else p.x0, process, said)
        x = jax.tree.map(corrected, process, x, before, row, new, *older)
        history = (new, *older)[:order]
        return (jax.tree.map(predicted, process, x, row, *history), x, history), None

    zeros = jax.tree.map(jnp.zeros_like, x)
    return jax.lax.scan(body, (x, zeros, (zeros,) * order), (here, tables))[0][0]
