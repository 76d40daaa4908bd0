"""Families `sit_sampler` and `lightning_transport`: samplers and likelihood of SiT and LightningDiT, in our time."""

import itertools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify import NotServed
from unified_jax.certify.options import (
    Check,
    anything,
    count,
    each,
    either,
    flag,
    named,
    number,
    optional,
    positive,
    require,
)
from unified_jax.certify.sit import ENDS, FORMS, PATH, TARGETS, denoiser, ends, interval, process_of, toy
from unified_jax.processes.interpolant import Interpolant, direction_loss
from unified_jax.processes.paths import Vp
from unified_jax.processes.targets import Prediction, diffuse, velocity
from unified_jax.processes.times import LogitNormalTimes, shift_times
from unified_jax.samplers.dopri5 import integrate
from unified_jax.samplers.likelihood import log_likelihood
from unified_jax.samplers.ode import TABLEAUS, Method, euler, explicit_step, heun
from unified_jax.samplers.sde import Form, sde

METHODS: dict[str, Method | Literal["dopri5"]] = {
    "euler": "euler",
    "midpoint": "midpoint",
    "heun2": "heun",
    "heun3": "heun3",
    "rk4": "rk4",
    "dopri5": "dopri5",
}
"""torchdiffeq's names; its other methods (adaptive, Adams, SciPy's) are not served."""
LAST: dict[Any, Any] = {None: "none", "Mean": "mean", "Euler": "euler", "Tweedie": "tweedie"}

TOLERANCES = (1e-5, 1e-6)
"""(rtol, atol) of the stored dopri5 runs; the files do not say, these reproduce them to their own rounding."""


SAMPLER: dict[str, Check] = PATH | ENDS | {"steps": count, "predictions": each(either(*TARGETS)), "reverse": flag}
SAMPLER |= {"rtol": positive, "atol": positive, "likelihood": lambda value: value is None or isinstance(value, str)}
SAMPLER |= {"ode": optional(each(lambda value: isinstance(value, str)))}
SAMPLER |= {"sde": optional(each(lambda value: isinstance(value, list) and len(value) == 5))}
LIGHTNING: dict[str, Check] = {"seed": anything, "shape": anything, "steps": count, "shifts": each(number)}
LIGHTNING |= {"method": either(*METHODS)}


def run_sampler(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Trajectories, one sampler call per step, and the likelihood."""
    require(config, SAMPLER)
    path, steps, z = config["path"], config["steps"], jnp.asarray(tensors["in/z"])
    noise = jnp.asarray(tensors["in/noise"])
    tolerances = (config.get("rtol", TOLERANCES[0]), config.get("atol", TOLERANCES[1]))
    out: dict[str, Any] = {}
    for prediction in config["predictions"]:
        process = process_of(path, prediction)
        _, eps = ends(path, prediction, config)
        for method in config.get("ode") or ():
            forward = np.linspace(*interval(path, prediction, eps), steps)
            times = np.maximum(forward, 1e-10) if config.get("reverse") else 1.0 - forward
            out[f"ode.{prediction}.{method}"] = ode_states(process, denoiser(process), z, times, method, tolerances)
        for method, form, norm, last, size in config.get("sde") or ():
            name = f"sde.{prediction}.{method}.{form}.{norm}.last{last}"
            if reason := _unserved_sde(method, form, norm, last, size):
                out[name] = NotServed(reason)
                continue
            size = size if last else 0.0
            t0, t1 = interval(path, prediction, eps, form, True, size)
            times = 1.0 - np.linspace(t0, t1, steps)
            out[name] = sde_states(process, z, times, size, noise, method.lower(), FORMS[form], norm, LAST[last])
        if config.get("likelihood"):
            t0, t1 = interval(path, prediction, eps)
            grid = np.maximum(np.linspace(t0, t1, steps), 1e-10)
            out |= _likelihood(process, z, tensors, grid, config["likelihood"], tolerances)
    return out


def _unserved_sde(method: Any, form: Any, norm: Any, last: Any, size: Any) -> str:
    """The first option of a stochastic run that is not served; "" where all are."""
    checks: tuple[tuple[str, Any, Check], ...] = (
        ("sampling_method", method, either("Euler", "Heun")),
        ("diffusion_form", form, either(*FORMS)),
        ("diffusion_norm", norm, number),
        ("last_step", last, either(*LAST)),
        ("last_step_size", size, number),
    )
    return next((named(name, value) for name, value, check in checks if not check(value)), "")


def ode_states(
    process: Interpolant, denoise: Any, z: Any, times: np.ndarray, method: str,
    tolerances: tuple[float, float] = TOLERANCES,
) -> Any:  # fmt: skip
    """z and the state at every later time."""
    if method not in METHODS:
        return NotServed(named("sampling_method", method))
    if method == "dopri5":
        field = lambda x, t: velocity(process, denoise(x, t), t)  # noqa: E731
        # The reference steps past the end, where only the variance-preserving path is undefined.
        beyond = not (isinstance(process.path, Vp) and process.target != "velocity")
        if process.target == "velocity":
            field = lambda x, t: -toy(x, 1.0 - t)  # noqa: E731
        states = integrate(field, z, jnp.asarray(times), *tolerances, joint=True, beyond=beyond)
        return jnp.concatenate([z[None], states])
    keys = jax.random.split(jax.random.key(0), len(z))
    sampler = {"euler": euler, "heun2": heun}.get(method)

    def slope(x: Any, t: Any) -> Any:
        t = jnp.full(x.shape[:1], t)
        return velocity(process, denoise(x, t), t)

    def step(x: Any, t: Any, s: Any) -> Any:  # heun's own last step is Euler's, here of length 0
        if sampler is None:
            tableau: Any = TABLEAUS
            return explicit_step(tableau[METHODS[method]], slope, x, t, s)
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
    end = jax.jit(lambda x: sde(denoiser(process), process, x, grid, keys, method, form, norm, last, lambda *_: 0 * x))
    return jnp.stack([*states, end(x)])


def _likelihood(
    process: Interpolant, x: Any, tensors: Any, grid: np.ndarray, method: str, tolerances: tuple[float, float]
) -> dict[str, Any]:
    if method not in METHODS:
        reason = NotServed(named("likelihood", method))
        return {"likelihood.logp": reason, "likelihood.z": reason}
    probe = 2.0 * jnp.asarray(tensors["in/rademacher01"]) - 1.0
    rtol, atol = tolerances
    beyond = not isinstance(process.path, Vp)  # as in `ode_states`
    found = log_likelihood(
        denoiser(process), process, x, grid, probe, METHODS[method],
        rtol=rtol, atol=atol, joint=True, beyond=beyond,
    )  # fmt: skip
    return {"likelihood.logp": found.log_density, "likelihood.z": found.noise}


def run_lightning(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """LightningDiT: logit-normal times, the cosine loss, and Euler over shifted grids (its shift is ours inverted)."""
    require(config, LIGHTNING)
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
