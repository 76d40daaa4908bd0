"""Families `sit_path` and `sit_loss`: SiT's transport, whose t = 1 is the data (samplers: `sit_sampler`).

Here t_ours = 1 - t and velocity_ours = -velocity; scores and noise are the same. Toy network in closed form, over
arrays in the reference's layout (nothing here mixes channels).
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from unified_jax.certify.options import (
    Check,
    anything,
    either,
    number,
    optional,
    require,
)  # fmt: skip
from unified_jax.processes.interpolant import Interpolant
from unified_jax.processes.paths import Gvp, Linear, Vp
from unified_jax.processes.targets import Prediction, diffuse, expand, rates, velocity
from unified_jax.samplers.sde import Form, diffusion

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


PATH: dict[str, Check] = {"seed": anything, "shape": anything, "path": either(*PATHS)}
ENDS: dict[str, Check] = {"train_eps": optional(number), "sample_eps": optional(number)}


def process_of(path: str, prediction: str = "velocity", loss: str = "target") -> Interpolant:
    """SiT's transport; its ends are cut where the reference cuts them (`interval`), not by the process."""
    weight: Any = "target" if loss in ("None", "target") else loss
    return Interpolant(TARGETS[prediction], PATHS[path], loss=weight, data_end=1e-9, noise_end=1.0 - 1e-9)


def toy(x: Any, t: Any) -> Any:
    """The toy network at SiT's t."""
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
    require(config, PATH | {"norm": number})
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
    require(config, PATH | ENDS)
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
