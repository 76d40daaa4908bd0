"""Families `beta_schedules`, `frechet`, `kid_pr_is`, `ema` and `sd3_training_density`: tables and closed forms."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from unified_jax.certify import Cancelled, NotServed, Unserved
from unified_jax.certify.options import (
    Check,
    anything,
    count,
    each,
    either,
    flag,
    mapping,
    named,
    number,
    positive,
    require,
    whole,
)  # fmt: skip
from unified_jax.evaluation.distances import frechet, inception_score, kernel_distance, moments
from unified_jax.evaluation.neighbours import precision_recall
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.schedules import Schedule, make_betas, space_timesteps
from unified_jax.processes.times import CosMapTimes, LogitNormalTimes, ModeTimes
from unified_jax.processes.weights import loss_weight
from unified_jax.training.ema import Ema

NAMES: dict[str, Schedule] = {
    "quad": "scaled_linear",
    "linear": "linear",
    "warmup10": "warmup10",
    "warmup50": "warmup50",
    "const": "constant",
    "jsd": "jsd",
    "squaredcos_cap_v2": "squared_cosine",
}
"""The reference's names."""

DRAWN: dict[str, Check] = dict.fromkeys(("seed", "n", "m", "d", "shape"), anything)
BETAS: dict[str, Check] = DRAWN | {"b0": number, "b1": number, "space": each(lambda v: isinstance(v, list))}
DENSITY: dict[str, Check] = DRAWN | {"mean": number, "std": positive, "mode_scale": number, "decay": number}
DENSITY |= {"after": whole, "ema": each(lambda v: isinstance(v, list) and len(v) == 3)}
AVERAGES: dict[str, Check] = DRAWN | {"steps": count, "decay": number, "variants": mapping}
VARIANT: dict[str, Check] = {"use_ema_warmup": flag, "inv_gamma": positive, "power": positive, "decay": number}
VARIANT |= {"update_after_step": whole, "min_decay": number, "foreach": flag}
FEATURES: dict[str, Check] = DRAWN | {"nhood": each(count), "splits": each(count)}


WEIGHTS: dict[str, Check] = {"schedule": either(*NAMES.values()), "steps": count, "gamma": positive}


def run_min_snr(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """min-SNR weights of every step of a process, one output per target."""
    require(config, WEIGHTS)
    t, out = jnp.arange(config["steps"]), {}
    for target in ("eps", "x0", "v"):
        chain = DiscreteGaussian(config["schedule"], config["steps"], target=target)
        path = chain.alpha_sigma(t)
        out[target] = loss_weight("min_snr", *path, *chain.target_coefficients(t), path, config["gamma"])
    return {name: value for name, value in out.items() if f"out/{name}" in tensors}


def run_beta_schedules(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Named tables (rescaled by 1000 / T where linear), plain tables, and respacings."""
    require(config, BETAS)
    out: dict[str, Any] = {}
    for name in tensors:
        kind, _, rest = name.removeprefix("out/").partition(".")
        if kind == "named":
            schedule, _, steps = rest.rpartition(".")
            if schedule not in ("linear", "squaredcos_cap_v2"):
                out[f"named.{rest}"] = NotServed(named("schedule_name", schedule))
                continue
            scale = 1000.0 / int(steps)
            out[f"named.{rest}"] = make_betas(NAMES[schedule], int(steps), 1e-4 * scale, 0.02 * scale)
        elif kind == "beta" and rest not in NAMES:
            out[f"beta.{rest}"] = NotServed(named("beta_schedule", rest))
        elif kind == "beta":
            out[f"beta.{rest}"] = make_betas(NAMES[rest], len(tensors[name]), config["b0"], config["b1"])
    for steps, spec in config.get("space", []):
        sections = spec if isinstance(spec, str) else ",".join(map(str, spec))
        out[f"space.{steps}.{sections.replace(',', '_')}"] = np.asarray(space_timesteps(steps, sections))
    return out


def run_frechet(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Moments and distances; the rank-deficient case uses the first d / 2 vectors of each set."""
    require(config, DRAWN)
    a, b = tensors["in/a"], tensors["in/b"]
    (mu1, cov1), (mu2, cov2) = moments(a), moments(b)
    out = {
        "mu1": mu1,
        "sigma1": cov1,
        "mu2": mu2,
        "sigma2": cov2,
        "fid": frechet(a, b),
        "fid_self": Cancelled(np.asarray(frechet(a, a)), 2 * float(np.trace(cov1)) * len(cov1)),
    }
    few = a.shape[1] // 2
    return out | {"fid_rank_deficient": frechet(a[:few], b[:few])}


def run_training_density(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Stable Diffusion 3's times, weights and the EMA schedules of diffusers."""
    require(config, DENSITY)
    normal, u, sigmas = (jnp.asarray(tensors[f"in/{name}"]) for name in ("normal", "u", "sigmas"))
    out: dict[str, Any] = {
        "logit_normal": LogitNormalTimes(config["mean"], config["std"]).of_normal(normal),
        "mode": ModeTimes(config["mode_scale"]).of_uniform(u),
        "none": u,
        "weight.cosmap": CosMapTimes().density(sigmas),
        "weight.none": jnp.ones_like(sigmas),
    }
    flow = RectifiedFlow()
    pair, unit = flow.target_coefficients(sigmas), (jnp.ones_like(sigmas), jnp.ones_like(sigmas))
    out["weight.sigma_sqrt"] = loss_weight("inverse_variance", *flow.alpha_sigma(sigmas), *pair, unit)
    for grown, inv_gamma, power in config["ema"]:
        warmup = "inverse" if grown else "ratio"
        ema = Ema(config["decay"], warmup, inv_gamma, power, after=config.get("after", 0))
        name = f"ema_decay.{int(grown)}.{inv_gamma:g}.{power:g}"
        names = [key[4:] for key in tensors if key.startswith(f"out/ema_decay.{int(grown)}.")]
        name = name if name in names else _closest(names, inv_gamma, power)
        count = len(tensors[f"out/{name}"])
        out[name] = [float(ema.share(jnp.asarray(k - 1.0))) if k else 0.0 for k in range(count)]
    return out


def _closest(names: list[str], inv_gamma: float, power: float) -> str:
    """The output named after these two numbers, in any format."""
    wanted = f"{inv_gamma}.{power}"
    return next(name for name in names if name.endswith(wanted))


def run_ema(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """EMAs after every step: DiT's constant decay, diffusers' variants."""
    require(config, AVERAGES)
    sequence = tensors["in/p"]

    def averages(ema: Ema) -> tuple[np.ndarray, np.ndarray]:
        shadow, states, shares = jnp.asarray(sequence[0]), [], []
        for k, value in enumerate(sequence[1:]):
            shadow = ema.update(shadow, jnp.asarray(value), jnp.asarray(k))
            states.append(np.asarray(shadow))
            shares.append(float(ema.share(jnp.asarray(float(k)))))
        return np.stack(states), np.asarray(shares)

    out: dict[str, Any] = {"dit": averages(Ema(config["decay"], "constant"))[0]}
    for name, options in config["variants"].items():
        require(options, VARIANT)
        ema = Ema(
            options.get("decay", config["decay"]),
            "inverse" if options.get("use_ema_warmup") else "ratio",
            options.get("inv_gamma", 1.0),
            options.get("power", 2 / 3),
            after=options.get("update_after_step", 0),
            least=options.get("min_decay", 0.0),
        )
        out[f"diffusers.{name}"], out[f"diffusers.{name}.decay"] = averages(ema)
    return out


def run_kid_pr_is(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Kernel distance, precision and recall, inception score of given features."""
    require(config, FEATURES)
    if len(tensors["in/real"]) != len(tensors["in/gen"]):
        raise Unserved("sets of two sizes, of which the reference draws at random, are not served")
    real, made, p = tensors["in/real"], tensors["in/gen"], tensors["in/probs"]
    out: dict[str, Any] = {"kid": kernel_distance(real, made, max(len(real), len(made)))}
    out |= {f"pr.k{k}": precision_recall(real, made, k) for k in config["nhood"]}
    return out | {f"is.splits{n}": inception_score(p, n) for n in config["splits"]}
