"""Family `scheduler`, the discrete samplers: diffusers' DDPM, DDIM, inverse DDIM and PNDM, step by step."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from unified_jax.certify import levels as lv
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.targets import Prediction
from unified_jax.samplers.ddim import ddim_step
from unified_jax.samplers.pndm import WEIGHTS, transfer


def toy(x: Any, t: Any, learned: bool = False) -> Any:
    """The toy network; t is the scheduler's own timestep."""
    out = 0.6 * x * jnp.cos(t / 1000) + 0.25 * jnp.sin(2 * x) - 0.1 * t / 1000
    return jnp.concatenate([out, jnp.tanh(x)], axis=-1) if learned else out


def _clip(prediction: Prediction, ctor: dict[str, Any], default: bool) -> Prediction:
    """diffusers clips x0 and keeps eps as the network predicted it."""
    if ctor.get("thresholding"):
        return lv.edited(prediction, ctor)
    if not ctor.get("clip_sample", default):
        return prediction
    limit = ctor.get("clip_sample_range", 1.0)
    return prediction._replace(x0=jnp.clip(prediction.x0, -limit, limit))


def ddpm_trajectory(
    full: DiscreteGaussian, ctor: Any, config: Any, timesteps: np.ndarray, x: Any, noises: Any
) -> tuple[list[Any], int]:
    """The respaced process's reverse steps; diffusers adds noise wherever the original timestep is above 0."""
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
    """Pairs (t, t - T / n) of the full process; below 0 either the data (abar = 1) or the first index."""
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


def inverse_trajectory(
    process: DiscreteGaussian, ctor: Any, config: Any, timesteps: np.ndarray, x: Any, noises: Any
) -> tuple[list[Any], int]:
    """DDIM inversion: increasing timesteps; the prediction at t is read with the level of the timestep before."""
    del noises, config
    before = -1 if ctor.get("set_alpha_to_one", True) else 0
    states = []
    for t in timesteps:
        s = min(int(t) - process.steps // len(timesteps), process.steps - 1)
        here = jnp.asarray(s if s >= 0 else before)
        output = toy(x, float(t))
        # At the data (alpha = 1, sigma = 0) a prediction of x0 has no eps; the others read as they are.
        prediction = process.predict(output, x, jnp.broadcast_to(here, x.shape[:1]))
        if s < 0 and before < 0 and process.target == "eps":
            prediction = prediction._replace(eps=output)
        prediction = _clip(prediction, ctor, True)
        x = ddim_step(process, prediction, x, here, jnp.asarray(int(t)), x)
        states.append(x)
    return states, 0


def pndm_trajectory(
    process: DiscreteGaussian, ctor: Any, config: Any, timesteps: np.ndarray, x: Any, noises: Any
) -> tuple[list[Any], int]:
    """PLMS: the second timestep comes twice, and its first output only completes the first step."""
    del noises
    last, step = -1 if ctor.get("set_alpha_to_one", False) else 0, process.steps // config["steps"]
    outputs, states, first = [], [], x
    for i, t in enumerate(timesteps.astype(int)):
        output = toy(x, float(t))
        if i == 1:  # a step that ends here, whatever the first timestep was
            mixed, t, x = (output + outputs[0]) / 2, t + step, first
        else:
            outputs.insert(0, output)
            weights = WEIGHTS[min(i - 2, 2)] if i else (1.0,)
            mixed = jnp.sum(jnp.stack([w * v for w, v in zip(weights, outputs, strict=False)]), axis=0)
        s = t - step if t >= step else last
        x = transfer(process, mixed, x, jnp.asarray(t), jnp.asarray(s))
        states.append(x)
    return states, 0
