"""Family `scheduler`, the solvers in noise levels: diffusers' Euler, Euler ancestral, DPM-Solver and UniPC.

diffusers steps a discrete process in s = sigma / alpha, like `NoiseLevels`; Euler and Euler ancestral keep x / alpha,
the others the process's own x. Timesteps of the last two are truncated to integers before the network.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify.schedules import Schedule
from unified_jax.processes.targets import Prediction, Process
from unified_jax.samplers.ddim import ddim_step
from unified_jax.samplers.dpm_solver import dpm_solver_table, quadratic_weights
from unified_jax.samplers.exponential import Multistep, nodes
from unified_jax.samplers.guidance import threshold
from unified_jax.samplers.ode import euler_step
from unified_jax.samplers.unipc import unipc_table

Config = dict[str, Any]


class Setting(NamedTuple):
    """The inputs of a trajectory: process, schedule, network and noise."""

    process: Process
    schedule: Schedule
    network: Callable[[Any, Any], Any]
    x: Any
    noises: Any


def predict(s: Setting, i: int, x: Any) -> Prediction:
    """The prediction at step i, at the scheduler's timestep."""
    level = jnp.full(x.shape[:1], s.schedule.levels[i])
    output = s.network(s.process.network_input(x, level), float(s.schedule.timesteps[i]))
    return s.process.predict(output, x, level)


def churned_trajectory(s: Setting, churn: Config, of_eps: bool) -> tuple[list[Any], int]:
    """Euler with EDM's churn as in diffusers: the network evaluates x before the step adds noise to it."""
    x, states, draws, count = s.x, [], 0, len(s.schedule.timesteps)
    for i in range(count):
        level, to = (float(v) for v in s.schedule.levels[i : i + 2])
        inside = churn.get("s_tmin", 0.0) <= level <= churn.get("s_tmax", float("inf"))
        share = min(churn["s_churn"] / (len(s.schedule.levels) - 1), 2**0.5 - 1) if inside else 0.0
        here = jnp.full(x.shape[:1], level)
        output = s.network(s.process.network_input(x, here), float(s.schedule.timesteps[i]))
        raised = level * (share + 1.0)
        if share > 0:
            x = x + s.noises[draws] * churn.get("s_noise", 1.0) * (raised**2 - level**2) ** 0.5
            draws += 1
        x0 = s.process.predict(output, x, jnp.full_like(here, raised) if of_eps else here).x0
        x = x + (to - raised) * (x - x0) / raised
        states.append(x)
    return states, draws


def euler_trajectory(s: Setting, ancestral: bool) -> tuple[list[Any], int]:
    """Euler in s, or down and noise back up, which is DDIM with eta = 1."""
    x, states = s.x, []
    for i in range(len(s.schedule.timesteps)):
        t, to = (jnp.asarray(v) for v in s.schedule.levels[i : i + 2])
        prediction = predict(s, i, x)
        if ancestral:
            x = ddim_step(s.process, prediction, x, t, to, s.noises[i], eta=1.0)
        else:
            x = euler_step(s.process, prediction, x, t, to, x)
        states.append(x)
    return states, len(states) if ancestral else 0


def dpm_tables(s: Setting, ctor: Config) -> tuple[Multistep, Multistep | None]:
    """Our coefficients; and those of diffusers where they are wrong: the third order of the SDE takes -1/2 for +1/2."""
    algorithm, count = ctor.get("algorithm_type", "dpmsolver++"), len(s.schedule.timesteps)
    sde, of_eps = algorithm.startswith("sde"), not algorithm.endswith("++")
    kind, order = ctor.get("solver_type", "midpoint"), ctor.get("solver_order", 2)
    kind = kind if kind == "heun" else "midpoint"
    lower = ctor.get("lower_order_final", True) and count < 15  # orders decrease only at the end of few steps
    table = dpm_solver_table(s.process, s.schedule.levels, order, kind, sde, of_eps, lower, as_published=True)
    if ctor.get("euler_at_final"):
        first = dpm_solver_table(s.process, s.schedule.levels, 1, kind, sde, of_eps)
        table = table._replace(weights=np.concatenate([table.weights[:-1], np.eye(1, order) * first.weights[-1]]))
    if order < 3 or not sde:
        return table, None
    points, theirs = nodes(s.process, s.schedule.levels), table.weights.copy()
    for i in range(2, count):
        if table.weights[i, 2]:
            past = [points[j].log_snr for j in range(i, i - 3, -1)]
            theirs[i] -= points[i + 1].alpha * quadratic_weights((0.0, 0.0, 1.0), past, points[i + 1].log_snr, 1.0)
    return table, table._replace(weights=theirs)


def dpm_trajectory(s: Setting, ctor: Config, table: Multistep) -> tuple[list[Any], int]:
    """Step by step with the coefficients of `dpm_solver_table`."""
    algorithm = ctor.get("algorithm_type", "dpmsolver++")
    sde, of_eps = algorithm.startswith("sde"), not algorithm.endswith("++")
    x, history, states = s.x, [], []
    for i in range(len(s.schedule.timesteps)):
        said = edited(predict(s, i, x), ctor)
        if of_eps and ctor.get("thresholding"):  # read again from the edited x0
            alpha, sigma = s.process.alpha_sigma(jnp.asarray(s.schedule.levels[i]))
            said = said._replace(eps=(x - alpha * said.x0) / sigma)
        history = [said.eps if of_eps else said.x0, *history][: table.weights.shape[1]]
        x = table.keep[i] * x + sum(w * m for w, m in zip(table.weights[i], history, strict=False))
        x = x + table.noise[i] * s.noises[i] if sde else x
        states.append(x)
    return states, len(states) if sde else 0


def unipc_trajectory(s: Setting, ctor: Config) -> tuple[list[Any], int]:
    """The coefficients of `unipc_table`, step by step."""
    order, of_eps = ctor.get("solver_order", 2), not ctor.get("predict_x0", True)
    kind = "bh1" if ctor.get("solver_type", "bh2") == "bh1" else "bh2"
    skipped = tuple(ctor.get("disable_corrector", ()))
    table = unipc_table(s.process, s.schedule.levels, order, kind, of_eps, skipped, ctor.get("lower_order_final", True))
    x, before, history, states = s.x, s.x, [], []
    for i in range(len(s.schedule.timesteps)):
        said = edited(predict(s, i, x), ctor)
        new = said.eps if of_eps else said.x0
        if table.correct[i]:
            x = table.correct_keep[i] * before + table.correct_weights[i, -1] * new
            x = x + sum(w * m for w, m in zip(table.correct_weights[i, :-1], history, strict=False))
        before, history = x, [new, *history][:order]
        x = table.keep[i] * x + sum(w * m for w, m in zip(table.weights[i], history, strict=False))
        states.append(x)
    return states, 0


def edited(prediction: Prediction, ctor: Config) -> Prediction:
    """Optional dynamic thresholding."""
    if not ctor.get("thresholding"):
        return prediction
    quantile, limit = ctor.get("dynamic_thresholding_ratio", 0.995), ctor.get("sample_max_value", 1.0)
    return prediction._replace(x0=threshold(prediction.x0, quantile, limit))


def unscaled(states: list[Any], s: Setting) -> list[Any]:
    """x / alpha as the process's own x."""
    ends = s.schedule.levels[1:]
    return [x / jnp.sqrt(1.0 + end**2) for x, end in zip(states, ends, strict=True)]


def stack(states: list[Any]) -> jax.Array:
    """Channel-first again."""
    return jnp.moveaxis(jnp.stack(states), -1, -3)
