r"""DPM-Solver++ and DPM-Solver, multistep, orders 1 to 3.

Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling"; Lu et al. 2022, "DPM-Solver".

With H = h (ODE) or 2 h (the SDE, whose x_s decays twice and which adds noise of variance sigma_t^2 (1 - e^-2h)), the
integral of a quadratic through the last predictions of x0 is

    x_t = (sigma_t / sigma_s) e^{h - H} x_s + alpha_t [ phi1 m_0 + phi2 D1 - phi3 D2 ]
    phi1 = 1 - e^-H,     phi2 = 1 - phi1 / H,     phi3 = phi2 / H - 1/2

    r0 = (lambda_s - lambda_s1) / h,    D1 = (m_0 - m_1) / r0                                           (order 2)
    r1 = (lambda_s1 - lambda_s2) / h,   d = (m_1 - m_2) / r1,   e = (D1 - d) / (r0 + r1)
    D1 <- D1 + r0 e,    D2 = 2 e                                                                        (order 3)

D2 is a second derivative, hence twice the divided difference e. The authors' code, and with it diffusers and
k-diffusion, uses D2 = e, which reduces the method to second order (measured: tests/samplers/test_solvers.py);
`as_published` computes that.

"midpoint" replaces phi2 of order 2 by phi1 / 2 (equal to the same order). First order is DDIM; for the SDE it is DDIM
with eta = 1. DPM-Solver (of eps) is the same with e^h: phi1 = e^h - 1, phi2 = phi1 / h - 1, phi3 = phi2 / h - 1/2,
scaled by -sigma_t.
"""

import math
from typing import Any, Literal

import jax
import numpy as np

from unified_jax.processes.targets import Process
from unified_jax.samplers.exponential import Multistep, Node, check_ends, nodes, order_at, run_multistep
from unified_jax.samplers.loop import Denoiser, Draw, normal_like
from unified_jax.typing import Keys

Kind = Literal["midpoint", "heun"]


def dpm_solver_table(
    process: Process, grid: Any, order: int = 2, kind: Kind = "midpoint", sde: bool = False, of_eps: bool = False,
    lower_final: bool = True, as_published: bool = False,
) -> Multistep:  # fmt: skip
    """Coefficients of every step of a grid.

    Raises ValueError for an unknown order, or with `of_eps` for a grid that reaches alpha = 0 or sigma = 0.
    """
    if order not in (1, 2, 3) or (sde and of_eps and order == 3):
        raise ValueError(f"DPM-Solver has orders 1, 2 and 3 (the SDE of eps 1 and 2), found {order}.")
    points = nodes(process, grid)
    steps = len(points) - 1
    if of_eps:
        check_ends(points)
    keep, noise, weights = np.zeros(steps), np.zeros(steps), np.zeros((steps, order))
    # Row i: the last `now` predictions, the newest first; columns of higher orders stay 0.
    for i in range(steps):
        now = order_at(i, steps, order, lower_final, points[-1].sigma == 0)
        past = [points[j].log_snr for j in range(i, i - now, -1)]
        form = _eps_form if of_eps else _x0_form
        keep[i], noise[i], phi = form(points[i], points[i + 1], sde)
        if now == 2 and kind == "midpoint":  # phi2 -> phi1 / 2
            phi = (phi[0], 0.5 * phi[0], phi[2])
        weights[i, :now] = quadratic_weights(phi, past, points[i + 1].log_snr, 1.0 if as_published else 2.0)
    return Multistep(keep, weights, noise)


def _x0_form(s: Node, t: Node, sde: bool) -> tuple[float, float, tuple[float, float, float]]:
    """keep, noise and alpha_t (phi1, phi2, -phi3)."""
    # A step to sigma = 0 has h = inf; it is of first order, so only phi1 = 1 is used.
    h = t.log_snr - s.log_snr
    big = 2 * h if sde else h
    decay = math.exp(-big)
    # The ODE's phi1 by alpha and sigma, not by h, which is clipped where alpha = 0 (LEAST_ALPHA).
    phi1 = 1.0 - decay if sde else 1.0 - (s.alpha * t.sigma) / (s.sigma * t.alpha)
    phi2 = 1.0 - phi1 / big
    keep = t.sigma / s.sigma * (math.exp(-h) if sde else 1.0)
    noise = t.sigma * math.sqrt(-math.expm1(-2 * h)) if sde else 0.0
    return keep, noise, (t.alpha * phi1, t.alpha * phi2, -t.alpha * (phi2 / big - 0.5))


def _eps_form(s: Node, t: Node, sde: bool) -> tuple[float, float, tuple[float, float, float]]:
    h = t.log_snr - s.log_snr
    phi1 = math.expm1(h)
    phi2 = phi1 / h - 1.0
    scale = -t.sigma * (2.0 if sde else 1.0)
    noise = t.sigma * math.sqrt(math.expm1(2 * h)) if sde else 0.0
    return t.alpha / s.alpha, noise, (scale * phi1, scale * phi2, scale * (phi2 / h - 0.5))


def quadratic_weights(
    phi: tuple[float, float, float], past: list[float], target: float, curvature: float = 2.0
) -> np.ndarray:
    """Weights of m_0, m_1, m_2: phi[0] m_0 + phi[1] D1 + phi[2] D2, with D1 and D2 of the module docstring.

    `past` are the lambdas of the predictions, the newest first; `target` is that of the step's end; D2 = curvature e.
    """
    order, h = len(past), target - past[0]
    basis = np.eye(order)  # m_j as a vector, so that every formula below is a row of weights
    total = phi[0] * basis[0]
    if order == 1:
        return total
    r0 = (past[0] - past[1]) / h
    first = (basis[0] - basis[1]) / r0
    if order == 2:
        return total + phi[1] * first
    r1 = (past[1] - past[2]) / h
    second = (first - (basis[1] - basis[2]) / r1) / (r0 + r1)
    return total + phi[1] * (first + r0 * second) + phi[2] * curvature * second


def dpm_solver(
    denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys, order: int = 2, kind: Kind = "midpoint",
    sde: bool = False, of_eps: bool = False, lower_final: bool = True, as_published: bool = False,
    draw: Draw = normal_like,
) -> Any:  # fmt: skip
    """Integrates x `[b, ...]` from the grid's first time to a sample at its last; one denoiser call per step.

    `sde` adds noise (the reverse-time SDE); `of_eps` is DPM-Solver instead of DPM-Solver++; `lower_final` lowers the
    order over the last steps, which few-step sampling needs; `as_published` halves D2 of order 3, as other codes do.
    """
    tables = jax.tree.map(
        lambda p, g: dpm_solver_table(p, g, order, kind, sde, of_eps, lower_final, as_published), process, grid
    )
    read = (lambda prediction: prediction.eps) if of_eps else (lambda prediction: prediction.x0)
    return run_multistep(tables, read, denoise, process, x, grid, keys, draw if sde else None)
