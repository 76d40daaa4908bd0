"""Family `scheduler`: noise levels (or times) of diffusers' solvers, and their timesteps for the network."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from unified_jax.processes import grids
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.levels import LEAST_ABAR, NoiseLevels
from unified_jax.processes.times import shift_times

Config = dict[str, Any]

NO_LENGTH = 1e-11
"""Share of the last level that a last step of no length takes: ours must have one."""


class Schedule(NamedTuple):
    """Levels (the last one is the end) and the timesteps shown to the network."""

    levels: np.ndarray
    timesteps: np.ndarray


def named_levels(ctor: Config, low: float, high: float, count: int) -> np.ndarray | None:
    """The levels that an option asks for, if any."""
    if ctor.get("use_karras_sigmas"):
        return grids.karras_levels(low, high, count)
    if ctor.get("use_exponential_sigmas"):
        return grids.exponential_levels(low, high, count)
    if ctor.get("use_beta_sigmas"):
        return grids.beta_levels(low, high, count)
    return None


def single(process: Any) -> np.ndarray:
    """The table of levels in float32, as diffusers computes it: its rounding decides ties."""
    betas = process.chain.respaced(()).betas.astype(np.float32)
    abar = np.cumprod((1.0 - betas).astype(np.float64)).astype(np.float32)
    if process.chain.zero_snr:
        abar[-1] = LEAST_ABAR
    return np.sqrt((np.float32(1.0) - abar) / abar)


def _steps_at(process: NoiseLevels, levels: np.ndarray) -> np.ndarray:
    """Steps of levels, linear in the logarithm."""
    logs = np.log(single(process)).astype(np.float64)
    return np.interp(np.log(levels), logs, np.arange(len(logs)))


def euler_schedule(process: NoiseLevels, ctor: Config, setting: Config, count: int) -> Schedule:
    """EulerDiscrete and EulerAncestral: fractional timesteps; named grids span the levels of the spaced ones."""
    if "sigmas" in setting:  # used as they are
        levels = np.asarray(setting["sigmas"], np.float64)
        return Schedule(levels, _steps_at(process, levels[:-1]))
    steps = spaced(ctor, count)
    levels = process.at_steps(steps)
    if ctor.get("interpolation_type", "linear") == "log_linear":  # of the full process, and one level too many
        levels = np.geomspace(process.sigma_max, process.sigma_min, count + 1)
    low, high = ctor.get("sigma_min") or levels[-1], ctor.get("sigma_max") or levels[0]
    named = named_levels(ctor, low, high, count)
    if named is not None:
        levels, steps = named, _steps_at(process, named)
    if ctor.get("timestep_type") == "continuous" and ctor.get("prediction_type") == "v_prediction":
        steps = 0.25 * np.log(levels)
    last = process.sigma_min if ctor.get("final_sigmas_type", "zero") == "sigma_min" else 0.0
    return Schedule(np.append(levels, last), steps)


def spaced(ctor: Config, count: int) -> np.ndarray:
    """Timesteps of the Euler schedulers."""
    spacing = ctor.get("timestep_spacing", "linspace")
    if spacing == "linspace" and count == 1:
        return np.zeros(1)  # NumPy's linspace of one value is its first
    return grids.spaced_steps(ctor.get("num_train_timesteps", 1000), count, spacing, ctor.get("steps_offset", 0))


def multistep_schedule(process: NoiseLevels, ctor: Config, count: int) -> Schedule:
    """DPM-Solver and UniPC, discrete: one more timestep than is kept; named grids span the full process."""
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
    unipc, last = ctor["scheduler"].startswith("UniPC"), process.sigma_min
    named = named_levels(ctor, low, high, count)
    if ctor.get("use_lu_lambdas") and not ctor.get("use_karras_sigmas"):
        named = np.exp(np.linspace(np.log(high), np.log(low), count))
    if named is not None:
        levels, steps = named, _steps_at(process, named)
        whole = ctor.get("use_karras_sigmas") or ctor.get("use_lu_lambdas")
        if whole and (unipc or ctor.get("beta_schedule") != "squaredcos_cap_v2"):
            steps = steps.round()
        last = levels[-1] * (1.0 - NO_LENGTH)  # without `sigma_min` the same level again
    end = last if ctor.get("final_sigmas_type", "zero") == "sigma_min" else 0.0
    return Schedule(np.append(levels, end), steps.astype(int))


def flow_schedule(process: NoiseLevels, ctor: Config, setting: Config, count: int) -> Schedule:
    """DPM-Solver and UniPC with flow sigmas, which are our times; UniPC's Karras levels of a discrete process become
    times too.

    DPM-Solver's "sigma_min" is the process's, UniPC's the last time itself.
    """
    total, shift = ctor.get("num_train_timesteps", 1000), ctor.get("flow_shift", 1.0)
    unipc = ctor["scheduler"].startswith("UniPC")
    if "mu" in setting and (ctor.get("use_dynamic_shifting") or not unipc):
        linear = ctor.get("time_shift_type", "exponential") == "linear"
        shift = setting["mu"] if linear else float(np.exp(setting["mu"]))
    if unipc:
        times = shift_times(np.linspace(1.0, 1.0 / total, count + 1)[:-1], shift)
        if ctor.get("shift_terminal"):
            times = 1.0 - (1.0 - times) * (1.0 - ctor["shift_terminal"]) / (1.0 - times[-1])
        if ctor.get("use_karras_sigmas"):
            karras = grids.karras_levels(process.sigma_min, process.sigma_max, count)
            times = np.asarray(RectifiedFlow().time_of_level(jnp.asarray(karras)))
        if abs(times[0] - 1.0) < 1e-6:
            times[0] -= 1e-6
        end = times[-1] * (1.0 - NO_LENGTH)
    else:
        times = shift_times(1.0 - np.linspace(1.0, 1.0 / total, count + 1), shift)[::-1][:-1]
        end = process.sigma_min
    times = np.append(times, end if ctor.get("final_sigmas_type", "zero") == "sigma_min" else 0.0)
    return Schedule(times, (times[:-1] * total).astype(int))
