"""Family `scheduler`, the solvers in noise levels: diffusers' Euler, Euler ancestral, DPM-Solver and UniPC.

diffusers steps a chain in s = sigma / alpha, like `NoiseLevels`; Euler and Euler ancestral keep x / alpha, the others
the chain's own x. Timesteps of the last two are cut to whole numbers before the network sees them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.levels import LEAST_ABAR, NoiseLevels
from unified_jax.processes.targets import Prediction, Process
from unified_jax.processes.times import shift_times
from unified_jax.samplers import grids
from unified_jax.samplers.ddim import ddim_step
from unified_jax.samplers.dpm_solver import dpm_solver_table, quadratic_weights
from unified_jax.samplers.exponential import Multistep, nodes
from unified_jax.samplers.guidance import threshold
from unified_jax.samplers.ode import euler_step
from unified_jax.samplers.unipc import unipc_table

Config = dict[str, Any]


class Schedule(NamedTuple):
    """Levels (the last one is the end) and the timesteps shown to the network."""

    levels: np.ndarray
    timesteps: np.ndarray


class Setting(NamedTuple):
    """What a trajectory needs: the process, its schedule, the network and the draws."""

    process: Process
    schedule: Schedule
    network: Callable[[Any, Any], Any]
    x: Any
    noises: Any


def predict(s: Setting, i: int, x: Any) -> Prediction:
    """The prediction at step i, the network being shown the scheduler's timestep."""
    level = jnp.full(x.shape[:1], s.schedule.levels[i])
    output = s.network(s.process.network_input(x, level), float(s.schedule.timesteps[i]))
    return s.process.predict(output, x, level)


# ---- schedules -------------------------------------------------------------------------------------------------------


def named_levels(ctor: Config, low: float, high: float, count: int) -> np.ndarray | None:
    """The levels that an option asks for, if any."""
    if ctor.get("use_karras_sigmas"):
        return grids.karras_levels(low, high, count)
    if ctor.get("use_exponential_sigmas"):
        return grids.exponential_levels(low, high, count)
    if ctor.get("use_beta_sigmas"):
        return grids.beta_levels(low, high, count)
    return None


def single(process: NoiseLevels) -> np.ndarray:
    """The table of levels in float32, as diffusers computes it: its rounding decides which step a tie falls to."""
    betas = process.chain.respaced(()).betas.astype(np.float32)
    abar = np.cumprod((1.0 - betas).astype(np.float64)).astype(np.float32)
    if process.chain.zero_snr:
        abar[-1] = LEAST_ABAR
    return np.sqrt((np.float32(1.0) - abar) / abar)


def _steps_at(process: NoiseLevels, levels: np.ndarray) -> np.ndarray:
    """Steps of levels, linear in the logarithm."""
    logs = np.log(single(process)).astype(np.float64)
    return np.interp(np.log(levels), logs, np.arange(len(logs)))


def euler_schedule(process: NoiseLevels, ctor: Config, count: int) -> Schedule:
    """EulerDiscrete and EulerAncestral: fractional timesteps; named grids span the levels of the spaced ones."""
    steps = spaced(ctor, count)
    levels = process.at_steps(steps)
    if ctor.get("interpolation_type", "linear") == "log_linear":  # of the whole chain, and one level too many
        levels = np.geomspace(process.sigma_max, process.sigma_min, count + 1)
    low, high = ctor.get("sigma_min") or levels[-1], ctor.get("sigma_max") or levels[0]
    named = named_levels(ctor, low, high, count)
    if named is not None:
        levels, steps = named, _steps_at(process, named)
    last = process.sigma_min if ctor.get("final_sigmas_type", "zero") == "sigma_min" else 0.0
    return Schedule(np.append(levels, last), steps)


def spaced(ctor: Config, count: int) -> np.ndarray:
    """Timesteps of the Euler schedulers."""
    spacing = ctor.get("timestep_spacing", "linspace")
    return grids.spaced_steps(ctor.get("num_train_timesteps", 1000), count, spacing, ctor.get("steps_offset", 0))


def multistep_schedule(process: NoiseLevels, ctor: Config, count: int) -> Schedule:
    """DPM-Solver and UniPC on a chain: one more timestep than is kept; named grids span the whole chain."""
    total, offset = len(process.table), ctor.get("steps_offset", 0)
    clipped = np.searchsorted(-np.log(process.table)[::-1], ctor.get("lambda_min_clipped", -np.inf))
    last = total - int(clipped)
    match ctor.get("timestep_spacing", "linspace"):
        case "linspace":
            steps = np.linspace(0, last - 1, count + 1).round()[::-1][:-1]
        case "leading":
            steps = (np.arange(count + 1) * (last // (count + 1)))[::-1][:-1] + offset
        case _:
            steps = np.arange(last, 0, -total / count).round() - 1
    levels = process.at_steps(steps)
    low = ctor.get("sigma_min") or float(single(process)[0])
    high = ctor.get("sigma_max") or float(single(process)[-1])
    named = named_levels(ctor, low, high, count)
    if ctor.get("use_lu_lambdas"):
        named = np.exp(np.linspace(np.log(high), np.log(low), count))
    if named is not None:
        levels, steps = named, _steps_at(process, named)
        whole = ctor.get("use_karras_sigmas") or ctor.get("use_lu_lambdas")
        if whole and (ctor.get("beta_schedule") != "squaredcos_cap_v2" or ctor["scheduler"].startswith("UniPC")):
            steps = steps.round()
    end = process.sigma_min if ctor.get("final_sigmas_type", "zero") == "sigma_min" else 0.0
    return Schedule(np.append(levels, end), steps.astype(int))


def flow_schedule(process: NoiseLevels, ctor: Config, setting: Config, count: int) -> Schedule:
    """DPM-Solver and UniPC with flow sigmas, which are our times; UniPC's Karras levels of a chain become times too."""
    total, shift = ctor.get("num_train_timesteps", 1000), ctor.get("flow_shift", 1.0)
    if "mu" in setting:
        shift = float(np.exp(setting["mu"]))
    if ctor["scheduler"].startswith("UniPC"):
        times = shift_times(np.linspace(1.0, 1.0 / total, count + 1)[:-1], shift)
        if ctor.get("shift_terminal"):
            times = 1.0 - (1.0 - times) * (1.0 - ctor["shift_terminal"]) / (1.0 - times[-1])
        if ctor.get("use_karras_sigmas"):
            karras = grids.karras_levels(process.sigma_min, process.sigma_max, count)
            times = np.asarray(RectifiedFlow().time_of_level(jnp.asarray(karras)))
        if abs(times[0] - 1.0) < 1e-6:
            times[0] -= 1e-6
        end = times[-1]
    else:
        times = shift_times(1.0 - np.linspace(1.0, 1.0 / total, count + 1), shift)[::-1][:-1]
        end = 0.0
    times = np.append(times, end if ctor.get("final_sigmas_type", "zero") == "sigma_min" else 0.0)
    return Schedule(times, (times[:-1] * total).astype(int))


# ---- trajectories ----------------------------------------------------------------------------------------------------


def churned_trajectory(s: Setting, churn: Config, of_eps: bool) -> tuple[list[Any], int]:
    """Euler with EDM's churn as diffusers has it: the network sees x before the noise that the step then adds to it."""
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
    lower = ctor.get("lower_order_final", True) and count < 15  # orders fall at the end of short runs only
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
    """Dynamic thresholding where it is asked for."""
    if not ctor.get("thresholding"):
        return prediction
    quantile, limit = ctor.get("dynamic_thresholding_ratio", 0.995), ctor.get("sample_max_value", 1.0)
    return prediction._replace(x0=threshold(prediction.x0, quantile, limit))


def unscaled(states: list[Any], s: Setting) -> list[Any]:
    """x / alpha as the chain's own x."""
    ends = s.schedule.levels[1:]
    return [x / jnp.sqrt(1.0 + end**2) for x, end in zip(states, ends, strict=True)]


def flow_process() -> RectifiedFlow:
    """The process of flow sigmas."""
    return RectifiedFlow()


def stack(states: list[Any]) -> jax.Array:
    """Channel-first again."""
    return jnp.moveaxis(jnp.stack(states), -1, -3)
