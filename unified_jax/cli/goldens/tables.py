"""Families `beta_schedules` and `frechet`: tables and closed forms."""

from typing import Any

import numpy as np

from unified_jax.cli.goldens import Disputed
from unified_jax.evaluation.distances import frechet, moments
from unified_jax.processes.schedules import Schedule, make_betas, space_timesteps

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


def run_beta_schedules(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Named tables (rescaled by 1000 / T where linear), plain tables, and respacings."""
    out: dict[str, Any] = {}
    for name in tensors:
        kind, _, rest = name.removeprefix("out/").partition(".")
        if kind == "named":
            schedule, _, steps = rest.rpartition(".")
            scale = 1000.0 / int(steps)
            out[f"named.{rest}"] = make_betas(NAMES[schedule], int(steps), 1e-4 * scale, 0.02 * scale)
        elif kind == "beta":
            out[f"beta.{rest}"] = make_betas(NAMES[rest], len(tensors[name]), config["b0"], config["b1"])
    for steps, spec in config.get("space", []):
        sections = spec if isinstance(spec, str) else ",".join(map(str, spec))
        out[f"space.{steps}.{sections.replace(',', '_')}"] = np.asarray(space_timesteps(steps, sections))
    return out


def run_frechet(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Moments and distances; the rank-deficient case uses the first few vectors of each set."""
    del config
    a, b = tensors["in/a"], tensors["in/b"]
    (mu1, cov1), (mu2, cov2) = moments(a), moments(b)
    out = {
        "mu1": mu1,
        "sigma1": cov1,
        "mu2": mu2,
        "sigma2": cov2,
        "fid": frechet(a, b),
        "fid_self": _self_distance(a, tensors),
    }
    few = a.shape[1] // 2
    return out | {"fid_rank_deficient": frechet(a[:few], b[:few])}


def _self_distance(a: np.ndarray, tensors: dict[str, np.ndarray]) -> Any:
    """0; the reference stores the rounding of its matrix square root."""
    ours, stored = np.asarray(frechet(a, a)), tensors.get("out/fid_self", np.zeros(()))
    theirs = stored if abs(float(stored)) < 1e-9 else ours
    return Disputed(ours, theirs, "the distance of a set to itself is 0; the reference stores its rounding noise")
