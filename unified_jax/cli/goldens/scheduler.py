"""Family `scheduler`: diffusers' schedulers.

Covered: DDPM, DDIM, FlowMatchEulerDiscrete. Toy network in closed form.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from unified_jax.processes.flow import RectifiedFlow
from unified_jax.processes.gaussian import DiscreteGaussian, Variance
from unified_jax.processes.schedules import Schedule
from unified_jax.processes.targets import Prediction, Target, diffuse
from unified_jax.samplers.ddim import ddim_step
from unified_jax.samplers.grids import shift_times
from unified_jax.samplers.ode import euler_step

SCHEDULES: dict[str, Schedule] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "squared_cosine",
    "sigmoid": "sigmoid",
}
TARGETS: dict[str, Target] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES: dict[str, Variance] = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned_range": "learned_range",
}


def toy(x: Any, t: Any, learned: bool = False) -> Any:
    """The README's network; t is the scheduler's own timestep."""
    out = 0.6 * x * jnp.cos(t / 1000) + 0.25 * jnp.sin(2 * x) - 0.1 * t / 1000
    return jnp.concatenate([out, jnp.tanh(x)], axis=-1) if learned else out


def run(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Every output of a covered file; nothing for a scheduler or an option that is not covered."""
    ctor = config.get("ctor", {})
    if any(ctor.get(name) for name in ("thresholding", "trained_betas")):
        return {}
    match config["scheduler"]:
        case "DDPMScheduler":
            return _discrete(tensors, config, ddpm_trajectory)
        case "DDIMScheduler":
            return _discrete(tensors, config, ddim_trajectory)
        case "FlowMatchEulerDiscreteScheduler":
            return _flow(tensors, config)
        case _:
            return {}


def process_of(ctor: dict[str, Any]) -> DiscreteGaussian:
    """The full chain of a discrete scheduler."""
    zero = ctor.get("rescale_betas_zero_snr", False)
    return DiscreteGaussian(
        schedule=SCHEDULES[ctor.get("beta_schedule", "linear")],
        steps=ctor.get("num_train_timesteps", 1000),
        beta_start=ctor.get("beta_start", 1e-4),
        beta_end=ctor.get("beta_end", 0.02),
        rescale_betas=False,
        zero_snr=zero,
        target=TARGETS[ctor.get("prediction_type", "epsilon")],
        variance=VARIANCES[ctor.get("variance_type", "fixed_small")],
    )


def timesteps_of(ctor: dict[str, Any], count: int) -> np.ndarray:
    """Falling timesteps, by the three spacings of diffusers."""
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
    out: dict[str, Any] = {"betas": process.betas, "alphas_cumprod": process.alphas_cumprod, "init_noise_sigma": 1.0}
    out["timesteps"] = timesteps
    if "add_t" in config and "in/x0" in tensors:
        at = jnp.asarray(config["add_t"], jnp.int32)
        x0 = jnp.broadcast_to(jnp.asarray(tensors["in/x0"][:1]), (len(at), *tensors["in/x0"].shape[1:]))
        noise = jnp.asarray(tensors["in/noise"][0, :1])
        out["add_noise"] = diffuse(process, x0, noise, at)
    x = jnp.moveaxis(jnp.asarray(tensors["in/x"]), 1, -1)
    noises = jnp.moveaxis(jnp.asarray(tensors["in/noise"]), 2, -1)
    states, draws = trajectory(process, ctor, config, timesteps, x, noises)
    return out | {"trajectory": jnp.moveaxis(jnp.stack(states), -1, -3), "draws_used": draws}


def _clip(prediction: Prediction, ctor: dict[str, Any], default: bool) -> Prediction:
    """diffusers clips x0 and keeps eps as the network predicted it."""
    if not ctor.get("clip_sample", default):
        return prediction
    limit = ctor.get("clip_sample_range", 1.0)
    return prediction._replace(x0=jnp.clip(prediction.x0, -limit, limit))


def ddpm_trajectory(
    full: DiscreteGaussian, ctor: Any, config: Any, timesteps: np.ndarray, x: Any, noises: Any
) -> tuple[list[Any], int]:
    """The respaced chain's reverse steps; diffusers adds noise wherever the original timestep is above 0."""
    process = full.respaced(tuple(int(t) for t in timesteps[::-1]))
    learned = full.variance == "learned_range"
    large = full.variance == "fixed_large"
    states, draws = [], 0
    for i in range(len(process) - 1, -1, -1):
        t = jnp.full(x.shape[:1], i)
        prediction = process.predict(toy(x, float(timesteps[::-1][i]), learned), x, t)
        mean, log_variance = process.reverse(_clip(prediction, ctor, True), x, t)
        if large:
            log_variance = jnp.full_like(log_variance, process.log_betas[i])
        elif i == 0 and not learned:
            log_variance = jnp.full_like(log_variance, np.log(1e-20))
        elif i == 0:
            fraction = (jnp.tanh(x) + 1) / 2
            log_variance = fraction * process.log_betas[0] + (1 - fraction) * np.log(1e-20)
        x = mean
        if timesteps[::-1][i] > 0:
            x = mean + jnp.exp(0.5 * log_variance) * noises[draws]
            draws += 1
        states.append(x)
    return states, draws


def ddim_trajectory(
    process: DiscreteGaussian, ctor: Any, config: Any, timesteps: np.ndarray, x: Any, noises: Any
) -> tuple[list[Any], int]:
    """Pairs (t, t - T / n) of the full chain; below 0 either the data (abar = 1) or the first index."""
    eta = config.get("step", {}).get("eta", 0.0)
    rederive = config.get("step", {}).get("use_clipped_model_output", False)
    last = -1 if ctor.get("set_alpha_to_one", True) else 0
    states, draws = [], 0
    for t in timesteps:
        s = int(t) - process.steps // len(timesteps)
        at = jnp.full(x.shape[:1], int(t))
        prediction = _clip(process.predict(toy(x, float(t)), x, at), ctor, True)
        if rederive:
            alpha, sigma = process.alpha_sigma(jnp.asarray(int(t)))
            prediction = prediction._replace(eps=(x - alpha * prediction.x0) / sigma)
        noise = noises[draws] if eta > 0 else jnp.zeros_like(x)
        draws += int(eta > 0)
        x = ddim_step(process, prediction, x, jnp.asarray(int(t)), jnp.asarray(s if s >= 0 else last), noise, eta=eta)
        states.append(x)
    return states, draws


def _flow(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    ctor, count = config.get("ctor", {}), config["steps"]
    other = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas", "shift_terminal")
    if any(ctor.get(name) for name in other):
        return {}
    sigmas = _flow_sigmas(ctor, config.get("set", {}), count)
    process = RectifiedFlow()
    x, noises = jnp.asarray(tensors["in/x"]), jnp.asarray(tensors["in/noise"])
    stochastic = ctor.get("stochastic_sampling", False)
    states = []
    for i in range(count):
        t, s = jnp.asarray(sigmas[i]), jnp.asarray(sigmas[i + 1])
        prediction = process.predict(toy(x, sigmas[i] * 1000), x, jnp.full(x.shape[:1], t))
        if stochastic:  # fresh noise at every step: the path's point at s with this x0 and new eps
            x = diffuse(process, prediction.x0, noises[i], jnp.full(x.shape[:1], s))
        else:
            x = euler_step(process, prediction, x, t, s, x)
        states.append(x)
    draws = count if stochastic else 0
    out = {"sigmas": sigmas, "timesteps": sigmas[:-1] * 1000, "trajectory": jnp.stack(states), "draws_used": draws}
    return out | {"init_noise_sigma": 1.0}


def _flow_sigmas(ctor: dict[str, Any], setting: dict[str, Any], count: int) -> np.ndarray:
    """diffusers applies a static shift twice at the low end: in the constructor and again to the grid."""
    total, shift = ctor.get("num_train_timesteps", 1000), ctor.get("shift", 1.0)
    dynamic = ctor.get("use_dynamic_shifting", False)
    lowest = np.asarray([1.0 / total])
    if not dynamic:
        lowest = shift_times(lowest, shift)
    sigmas = np.linspace(1.0, lowest[0], count)
    if not dynamic:
        sigmas = shift_times(sigmas, shift)
    else:
        mu = setting.get("mu", 1.0)
        exponential = ctor.get("time_shift_type", "exponential") == "exponential"
        sigmas = shift_times(sigmas, float(np.exp(mu)) if exponential else mu)
    return np.concatenate([sigmas, [0.0]])
