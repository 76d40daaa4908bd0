"""Families `sit_path`, `sit_loss`, `sit_sampler` and `lightning_transport`: SiT's transport, whose t = 1 is the data.

Here t_ours = 1 - t and velocity_ours = -velocity; scores and noise are the same. Toy network in closed form, over
arrays in the reference's layout (nothing here mixes channels but LightningDiT's cosine).
"""

import itertools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.processes.interpolant import Interpolant, direction_loss
from unified_jax.processes.paths import Gvp, Linear, Vp
from unified_jax.processes.targets import Prediction, diffuse, expand, rates, velocity
from unified_jax.processes.times import LogitNormalTimes, shift_times
from unified_jax.samplers.dopri5 import integrate
from unified_jax.samplers.likelihood import log_likelihood
from unified_jax.samplers.ode import euler, heun
from unified_jax.samplers.sde import Form, diffusion, sde

PATHS: dict[str, Any] = {"Linear": Linear(), "GVP": Gvp(), "VP": Vp()}
TARGETS: dict[str, Any] = {"velocity": "velocity", "noise": "eps", "score": "score"}
FORMS: dict[str, Form] = {
    "constant": "constant",
    "SBDM": "sbdm",
    "sigma": "sigma",
    "linear": "linear",
    "decreasing": "decreasing",
    "inccreasing-decreasing": "increasing_decreasing",
}
LAST: dict[Any, Any] = {None: "none", "Mean": "mean", "Euler": "euler", "Tweedie": "tweedie"}


TOLERANCES = (1e-5, 1e-6)
"""(rtol, atol) of the stored dopri5 runs; the files do not say, these reproduce them to their own rounding."""


def process_of(path: str, prediction: str = "velocity", loss: str = "target") -> Interpolant:
    """SiT's transport; its ends are cut where the reference cuts them (`interval`), not by the process."""
    weight: Any = "target" if loss in ("None", "target") else loss
    return Interpolant(TARGETS[prediction], PATHS[path], loss=weight, data_end=1e-9, noise_end=1.0 - 1e-9)


def toy(x: Any, t: Any) -> Any:
    """The README's network at SiT's t."""
    t = expand(jnp.asarray(t), x)
    return 0.5 * x * jnp.cos(2 * t) + 0.3 * jnp.sin(2 * x) - 0.2 * t


def denoiser(process: Interpolant) -> Callable[[Any, Any], Prediction]:
    """The toy network read as the process's target."""

    def denoise(x: Any, t: Any) -> Prediction:
        output = toy(x, 1.0 - t)
        return process.predict(-output if process.target == "velocity" else output, x, t)

    return denoise


def ends(path: str, prediction: str, config: dict[str, Any]) -> tuple[float, float]:
    """(train_eps, sample_eps) of `create_transport`."""
    if path != "VP" and prediction == "velocity":
        return 0.0, 0.0
    train = config.get("train_eps")
    least = 1e-5 if path == "VP" else 1e-3
    return (least, 1e-3) if train is None else (train, config.get("sample_eps", 1e-3))


def interval(
    path: str, prediction: str, eps: float, form: str = "SBDM", stochastic: bool = False, last: float = 0.0
) -> tuple[float, float]:
    """SiT's (t0, t1)."""
    t1 = 1.0 - last if stochastic and last else 1.0 - eps
    if path == "VP":
        return 0.0, t1
    if prediction == "velocity" and not stochastic:
        return 0.0, 1.0
    singular = (form == "SBDM" and stochastic) or prediction != "velocity"
    return (eps if singular else 0.0), t1


def run_path(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """The path's functions and conversions."""
    process = process_of(config["path"])
    t, v, eps, x0 = (jnp.asarray(tensors[f"in/{name}"]) for name in ("t", "v", "x0", "x1"))
    ours = 1.0 - t
    (alpha, sigma), (d_alpha, d_sigma) = process.alpha_sigma(ours), rates(process, ours)
    x_t = diffuse(process, x0, eps, ours)
    g = diffusion(process, ours, "sbdm")
    said = process.predict(-v, x_t, ours)
    back, score = process_of(config["path"], "score"), -said.eps / expand(sigma, x_t)
    out = {
        "alpha": alpha,
        "sigma": sigma,
        "d_alpha": -d_alpha,
        "d_sigma": -d_sigma,
        "d_alpha_over_alpha": -d_alpha / alpha,
        "xt": x_t,
        "ut": -velocity(process, Prediction(x0, eps), ours),
        "drift": expand(d_alpha / alpha, x_t) * x_t,
        "drift_var": expand(g, x_t),
        "score_from_velocity": score,
        "noise_from_velocity": said.eps,
        "velocity_from_score": -velocity(back, back.predict(score, x_t, ours), ours),
    }
    norm = config.get("norm", 1.0)
    return out | {f"diffusion.{name}": expand(diffusion(process, ours, f, norm), x_t) for name, f in FORMS.items()}


def run_loss(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Losses, drifts and scores of the three predictions."""
    path = config["path"]
    u, eps, x0 = (jnp.asarray(tensors[f"in/{name}"]) for name in ("u", "x0", "x1"))
    out: dict[str, Any] = {}
    for prediction in TARGETS:
        train, sample = ends(path, prediction, config)
        t0, t1 = interval(path, prediction, train)
        t = 1.0 - (u * (t1 - t0) + t0)
        for loss in ("None", "velocity", "likelihood"):
            process = process_of(path, prediction, loss)
            x_t = diffuse(process, x0, eps, t)
            output = toy(x_t, 1.0 - t)
            output = -output if prediction == "velocity" else output
            out[f"interval.{prediction}.{loss}"] = np.asarray([t0, t1, train, sample])
            out[f"loss.{prediction}.{loss}"] = process.losses(output, x0, eps, x_t, t)["mse"]
        process, drawn = process_of(path, prediction), 1.0 - u
        said = denoiser(process)(x0, drawn)  # drifts and scores are stored at the data and the raw draw
        out[f"ode_drift.{prediction}"] = -velocity(process, said, drawn)
        out[f"score.{prediction}"] = -said.eps / expand(process.alpha_sigma(drawn)[1], x0)
    return out


def run_sampler(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Trajectories, one sampler call a step, and the likelihood."""
    path, steps, z = config["path"], config["steps"], jnp.asarray(tensors["in/z"])
    noise = jnp.asarray(tensors["in/noise"])
    out: dict[str, Any] = {}
    for prediction in config["predictions"]:
        process = process_of(path, prediction)
        _, eps = ends(path, prediction, config)
        for method in config.get("ode") or ():
            times = 1.0 - np.linspace(*interval(path, prediction, eps), steps)
            out[f"ode.{prediction}.{method}"] = ode_states(process, denoiser(process), z, times, method)
        for method, form, norm, last, size in config.get("sde") or ():
            size = size if last else 0.0
            t0, t1 = interval(path, prediction, eps, form, True, size)
            times = 1.0 - np.linspace(t0, t1, steps)
            found = sde_states(process, z, times, size, noise, method.lower(), FORMS[form], norm, LAST[last])
            out[f"sde.{prediction}.{method}.{form}.{norm}.last{last}"] = found
        if config.get("likelihood"):
            t0, t1 = interval(path, prediction, eps)
            out |= _likelihood(process, z, tensors, np.maximum(np.linspace(t0, t1, steps), 1e-10), config["likelihood"])
    return out


def ode_states(process: Interpolant, denoise: Any, z: Any, times: np.ndarray, method: str) -> Any:
    """z and the state at every later time."""
    if method == "dopri5":
        field = lambda x, t: velocity(process, denoise(x, t), t)  # noqa: E731
        # The reference steps past the end, where only the variance-preserving path is undefined.
        beyond = not (isinstance(process.path, Vp) and process.target != "velocity")
        if process.target == "velocity":
            field = lambda x, t: -toy(x, 1.0 - t)  # noqa: E731
        states = integrate(field, z, jnp.asarray(times), *TOLERANCES, joint=True, beyond=beyond)
        return jnp.concatenate([z[None], states])
    keys = jax.random.split(jax.random.key(0), len(z))
    sampler = euler if method == "euler" else heun

    def step(x: Any, t: Any, s: Any) -> Any:  # heun's own last step is Euler's, here of length 0
        grid = jnp.stack([t, s] if method == "euler" else [t, s, s])
        return sampler(denoise, process, x, grid, keys)

    states, call = [z], jax.jit(step)
    for t, s in itertools.pairwise(times):
        states.append(call(states[-1], t, s))
    return jnp.stack(states)


def sde_states(
    process: Interpolant, z: Any, times: np.ndarray, size: float, noise: Any, method: Literal["euler", "heun"],
    form: Form, norm: float, last: Any,
) -> Any:  # fmt: skip
    """The states after each stochastic step, and after the last step."""
    keys = jax.random.split(jax.random.key(0), len(z))

    def step(x: Any, t: Any, s: Any, w: Any) -> Any:
        grid = jnp.stack([t, s, s])
        return sde(denoiser(process), process, x, grid, keys, method, form, norm, "none", lambda *_: w)

    states, call, x = [], jax.jit(step), z
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        x = call(x, t, s, noise[i])
        states.append(x)
    if last == "none":
        return jnp.stack([*states, x])
    grid = np.asarray([times[-1], times[-1], times[-1] - size])  # a step of length 0, and the last one
    states.append(sde(denoiser(process), process, x, grid, keys, method, form, norm, last, lambda *_: 0 * x))
    return jnp.stack(states)


def _likelihood(process: Interpolant, x: Any, tensors: Any, grid: np.ndarray, method: Any) -> dict[str, Any]:
    probe = 2.0 * jnp.asarray(tensors["in/rademacher01"]) - 1.0
    rtol, atol = TOLERANCES
    kind: Any = {"heun2": "heun"}.get(method, method)
    found = log_likelihood(denoiser(process), process, x, grid, probe, kind, rtol=rtol, atol=atol, joint=True)
    return {"likelihood.logp": found.log_density, "likelihood.z": found.noise}


def run_lightning(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """LightningDiT: logit-normal times, the cosine loss, and Euler over shifted grids (its shift is ours inverted)."""
    normal, eps, x0, z = (jnp.asarray(tensors[f"in/{name}"]) for name in ("normal", "x0", "x1", "z"))
    process = process_of("Linear")
    t = LogitNormalTimes().of_normal(normal)
    x_t = diffuse(process, x0, eps, 1.0 - t)
    output = -toy(x_t, t)
    target = velocity(process, Prediction(x0, eps), 1.0 - t)
    last = lambda v: jnp.moveaxis(v, 1, -1)  # noqa: E731
    out: dict[str, Any] = {"t": t, "loss": process.losses(output, x0, eps, x_t, 1.0 - t)["mse"]}
    out["cos_loss"] = direction_loss(last(output), last(target))
    for shift in config["shifts"]:
        times = np.linspace(1.0, 0.0, config["steps"])
        times = shift_times(times, 1.0 / shift) if shift > 0 else times
        name = f"ode.shift{shift:g}"
        out[name] = ode_states(process, denoiser(process), z, times, config.get("method", "euler"))
        out[f"{name}.times"] = 1.0 - times[:-1]
    return out
