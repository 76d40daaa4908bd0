"""Family `scheduler`: diffusers' schedulers.

Covered: DDPM, DDIM and its inverse, PNDM without Runge-Kutta steps, Euler, Euler ancestral, DPM-Solver, UniPC,
FlowMatchEulerDiscrete. Toy network in closed form.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from unified_jax.certify import Disputed, chains, levels as lv, schedules as grids
from unified_jax.certify.chains import toy
from unified_jax.certify.scheduler_options import check
from unified_jax.interop import pipelines
from unified_jax.processes.gaussian import DiscreteGaussian, Variance
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.levels import LEAST_ABAR, NoiseLevels
from unified_jax.processes.schedules import Schedule
from unified_jax.processes.targets import diffuse
from unified_jax.processes.times import shift_times
from unified_jax.samplers.ode import euler_step

SCHEDULES: dict[str, Schedule] = {**pipelines.SCHEDULES, "sigmoid": "sigmoid"}
VARIANCES: dict[str, Variance] = {**pipelines.VARIANCES, "learned_range": "learned_range"}


def run(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Every output of a covered file. Raises Unserved for a scheduler or an option that is not."""
    check(config)
    ctor = config.get("ctor", {}) | {"scheduler": config["scheduler"]}
    config = config | {"ctor": ctor}
    match config["scheduler"]:
        case "DDPMScheduler":
            return _discrete(tensors, config, chains.ddpm_trajectory)
        case "DDIMScheduler":
            return _discrete(tensors, config, chains.ddim_trajectory)
        case "DDIMInverseScheduler":
            return _discrete(tensors, config, chains.inverse_trajectory)
        case "PNDMScheduler":
            return _discrete(tensors, config, chains.pndm_trajectory)
        case "EulerDiscreteScheduler" | "EulerAncestralDiscreteScheduler":
            return _euler(tensors, config)
        case "DPMSolverMultistepScheduler" | "UniPCMultistepScheduler":
            return _multistep(tensors, config)
        case _:
            return _flow(tensors, config)


def _chain_tables(process: DiscreteGaussian) -> dict[str, Any]:
    """The tables of the solvers in noise levels; a last abar of 0 is raised to where its level is finite."""
    abar = process.alphas_cumprod
    return {"betas": process.betas, "alphas_cumprod": np.maximum(abar, LEAST_ABAR) if process.zero_snr else abar}


def _euler(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    ctor, chain = config["ctor"], process_of(config["ctor"])
    process = NoiseLevels(chain)
    schedule = grids.euler_schedule(process, ctor, config.get("set", {}), config["steps"])
    _check_length(tensors, len(schedule.timesteps))
    top = schedule.levels.max()
    spread = ctor.get("timestep_spacing", "linspace") in ("linspace", "trailing")
    start = top if spread else np.sqrt(top**2 + 1.0)
    x = jnp.moveaxis(jnp.asarray(tensors["in/x"]), 1, -1) * start
    noises = jnp.moveaxis(jnp.asarray(tensors["in/noise"]), 2, -1)
    setting = lv.Setting(process, schedule, toy, x, noises)
    churn = config.get("step", {})
    if churn.get("s_churn"):
        of_eps = ctor.get("prediction_type", "epsilon") == "epsilon"
        states, draws = lv.churned_trajectory(setting, churn, of_eps)
    else:
        states, draws = lv.euler_trajectory(setting, config["scheduler"].startswith("EulerAncestral"))
    out = _chain_tables(chain) | {"sigmas": schedule.levels, "timesteps": schedule.timesteps}
    if "add_t" in config and "in/x0" in tensors:
        out["add_noise"] = _noised(tensors, process, jnp.asarray(process.table[np.asarray(config["add_t"], int)]))
    return out | {"init_noise_sigma": start, "trajectory": lv.stack(states), "draws_used": draws}


def _multistep(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    ctor, steps = config["ctor"], config["steps"]
    flow = bool(ctor.get("use_flow_sigmas"))
    learned = config.get("learn_var", False)
    plain = {"prediction_type": "epsilon"} if flow else {}
    chain = process_of(ctor | plain | {"variance_type": "learned_range" if learned else "fixed_small"})
    levels = NoiseLevels(chain)
    process = RectifiedFlow("x0" if ctor.get("prediction_type") == "sample" else "velocity") if flow else levels
    schedule = (
        grids.flow_schedule(levels, ctor, config.get("set", {}), steps)
        if flow
        else grids.multistep_schedule(levels, ctor, steps)
    )
    _check_length(tensors, len(schedule.timesteps))
    x = jnp.moveaxis(jnp.asarray(tensors["in/x"]), 1, -1)
    x = process.start(x, jnp.full(x.shape[:1], schedule.levels[0]))
    noises = jnp.moveaxis(jnp.asarray(tensors["in/noise"]), 2, -1)
    network = functools.partial(toy, learned=learned)
    setting = lv.Setting(process, schedule, network, x, noises)
    finish = lambda states: lv.stack(states if flow else lv.unscaled(states, setting))  # noqa: E731
    out = _chain_tables(chain) | {"sigmas": schedule.levels, "timesteps": schedule.timesteps, "init_noise_sigma": 1.0}
    out |= _add_noise(tensors, config, process, chain)
    if ctor["scheduler"].startswith("UniPC"):
        states, draws = lv.unipc_trajectory(setting, ctor)
        return out | {"trajectory": finish(states), "draws_used": draws}
    ours, theirs = lv.dpm_tables(setting, ctor)
    states, draws = lv.dpm_trajectory(setting, ctor, ours)
    out |= {"trajectory": finish(states), "draws_used": draws}
    if theirs is not None:
        wrong = np.asarray(finish(lv.dpm_trajectory(setting, ctor, theirs)[0]))
        reason = "diffusers' third order of sde-dpmsolver++ takes -1/2 for +1/2 in the weight of the second difference"
        out["trajectory"] = Disputed(np.asarray(out["trajectory"]), wrong, reason)
    return out


def process_of(ctor: dict[str, Any]) -> DiscreteGaussian:
    """The full process of a discrete scheduler."""
    zero = ctor.get("rescale_betas_zero_snr", False)
    return DiscreteGaussian(
        schedule=SCHEDULES[ctor.get("beta_schedule", "linear")],
        steps=len(ctor["trained_betas"]) if ctor.get("trained_betas") else ctor.get("num_train_timesteps", 1000),
        table=tuple(ctor.get("trained_betas") or ()),
        beta_start=ctor.get("beta_start", 1e-4),
        beta_end=ctor.get("beta_end", 0.02),
        rescale_betas=False,
        zero_snr=zero,
        target=pipelines.TARGETS[ctor.get("prediction_type", "epsilon")],
        variance=VARIANCES[ctor.get("variance_type", "fixed_small")],
    )


def timesteps_of(ctor: dict[str, Any], count: int) -> np.ndarray:
    """Decreasing timesteps, by the three spacings of diffusers; increasing for the inverse, PNDM's second one twice."""
    if ctor.get("scheduler") == "DDIMInverseScheduler":
        return timesteps_of(ctor | {"scheduler": ""}, count)[::-1]
    if ctor.get("scheduler") == "PNDMScheduler":
        found = timesteps_of(ctor | {"scheduler": ""}, count)
        return np.insert(found, 1, found[1]) if count > 1 else found
    total, offset = ctor.get("num_train_timesteps", 1000), ctor.get("steps_offset", 0)
    match ctor.get("timestep_spacing", "leading"):
        case "linspace":
            return np.linspace(0, total - 1, count).round()[::-1].astype(int)
        case "trailing":
            return np.round(np.arange(total, 0, -total / count)).astype(int) - 1
        case _:
            return (np.arange(count) * (total // count)).round()[::-1].astype(int) + offset


def _discrete(tensors: dict[str, np.ndarray], config: dict[str, Any], trajectory: Any) -> dict[str, Any]:
    ctor = config.get("ctor", {})
    process = process_of(ctor)
    timesteps = timesteps_of(ctor, config["steps"])
    _check_length(tensors, len(timesteps))
    out: dict[str, Any] = {"betas": process.betas, "alphas_cumprod": process.alphas_cumprod, "init_noise_sigma": 1.0}
    out["timesteps"] = timesteps
    if "add_t" in config and "in/x0" in tensors:
        out["add_noise"] = _noised(tensors, process, jnp.asarray(config["add_t"], jnp.int32))
    x = jnp.moveaxis(jnp.asarray(tensors["in/x"]), 1, -1)
    noises = jnp.moveaxis(jnp.asarray(tensors["in/noise"]), 2, -1)
    states, draws = trajectory(process, ctor, config, timesteps, x, noises)
    return out | {"trajectory": jnp.moveaxis(jnp.stack(states), -1, -3), "draws_used": draws}


def _check_length(tensors: dict[str, np.ndarray], steps: int) -> None:
    """Raises ValueError where the stored trajectory has another number of steps: then there is nothing to compare."""
    stored = tensors.get("out/trajectory")
    if stored is not None and stored.shape[:1] != (steps,):
        raise ValueError(f"the options give {steps} steps and the stored trajectory is {stored.shape}")


def _noised(tensors: dict[str, np.ndarray], process: Any, at: Any) -> Any:
    x0 = jnp.broadcast_to(jnp.asarray(tensors["in/x0"][:1]), (len(at), *tensors["in/x0"].shape[1:]))
    return diffuse(process, x0, jnp.asarray(tensors["in/noise"][0, :1]), at)


def _add_noise(tensors: Any, config: Any, process: Any, chain: DiscreteGaussian) -> dict[str, Any]:
    """Before its timesteps are set, the scheduler looks t up in reversed levels: T - 1 - t."""
    if "add_t" not in config or "in/x0" not in tensors:
        return {}
    at = len(chain) - 1 - np.asarray(config["add_t"])
    levels = jnp.asarray(NoiseLevels(chain).table[at])
    noised = _noised(tensors, process, levels)
    if isinstance(process, NoiseLevels):
        noised = process.network_input(noised, levels)
    return {"add_noise": noised}


def _flow(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    ctor = config.get("ctor", {})
    sigmas = _flow_sigmas(ctor, config.get("set", {}), config["steps"])
    total, count = ctor.get("num_train_timesteps", 1000), len(sigmas) - 1
    _check_length(tensors, count)
    process = RectifiedFlow()
    x, noises = jnp.asarray(tensors["in/x"]), jnp.asarray(tensors["in/noise"])
    stochastic = ctor.get("stochastic_sampling", False)
    states = []
    for i in range(count):
        t, s = jnp.asarray(sigmas[i]), jnp.asarray(sigmas[i + 1])
        prediction = process.predict(toy(x, sigmas[i] * total), x, jnp.full(x.shape[:1], t))
        if stochastic:  # fresh noise at every step: the path's point at s with this x0 and new eps
            x = diffuse(process, prediction.x0, noises[i], jnp.full(x.shape[:1], s))
        else:
            x = euler_step(process, prediction, x, t, s, x)
        states.append(x)
    draws = count if stochastic else 0
    out = {"sigmas": sigmas, "timesteps": sigmas[:-1] * total, "trajectory": jnp.stack(states), "draws_used": draws}
    return out | {"init_noise_sigma": 1.0}


def _flow_sigmas(ctor: dict[str, Any], setting: dict[str, Any], count: int) -> np.ndarray:
    """diffusers applies a static shift twice at the low end: in the constructor and again to the grid."""
    total, shift = ctor.get("num_train_timesteps", 1000), ctor.get("shift", 1.0)
    dynamic = ctor.get("use_dynamic_shifting", False)
    lowest = np.asarray([1.0 / total])
    if not dynamic:
        lowest = shift_times(lowest, shift)
    sigmas = np.asarray(setting["sigmas"], np.float64) if "sigmas" in setting else np.linspace(1.0, lowest[0], count)
    if not dynamic:
        sigmas = shift_times(sigmas, shift)
    else:
        mu = setting["mu"]
        exponential = ctor.get("time_shift_type", "exponential") == "exponential"
        sigmas = shift_times(sigmas, float(np.exp(mu)) if exponential else mu)
    if ctor.get("shift_terminal"):
        sigmas = 1.0 - (1.0 - sigmas) * (1.0 - ctor["shift_terminal"]) / (1.0 - sigmas[-1])
    named = grids.named_levels(ctor, sigmas[-1], sigmas[0], len(sigmas))
    sigmas = sigmas if named is None else named
    if ctor.get("invert_sigmas"):
        return np.append(1.0 - sigmas, 1.0)
    return np.append(sigmas, 0.0)
