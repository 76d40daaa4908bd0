"""The compute dtype of a run that leaves the choice to its devices: chosen once, kept in config.json, and told."""

from pathlib import Path
from typing import Any, get_args

import jax

from unified_jax.hosts import shared, writes
from unified_jax.runs.directory import read_config
from unified_jax.runs.notice import say
from unified_jax.training.compute import Dtype, fastest, networks_of, settled
from unified_jax.training.experiment import Experiment


def chosen(experiment: Experiment, run_dir: Path, quiet: bool = False) -> Experiment:
    """The experiment with the dtype that its run began in, or, if none has begun, that suits the present devices."""
    if experiment.dtype == "network":
        return experiment
    here = fastest(jax.default_backend())
    kinds = get_args(Dtype)
    (number,) = shared([kinds.index(begun_in(experiment, run_dir) or here)])  # processes may have other processors
    dtype: Dtype = kinds[number]
    if not quiet and writes():
        say(_told(dtype, here))
    return settled(experiment, dtype)


def begun_in(experiment: Experiment, run_dir: Path) -> Dtype | None:
    """The dtype in config.json; None where there is no run, or one of another kind."""
    if not (run_dir / "config.json").is_file():
        return None
    model: Any = read_config(run_dir).get("model")
    found: Any = model.get(networks_of(experiment.model)[0]) if isinstance(model, dict) else None
    dtype = found.get("dtype") if isinstance(found, dict) else None
    return dtype if dtype in get_args(Dtype) else None


def _told(dtype: Dtype, here: Dtype) -> str:
    if dtype != here:
        return f"dtype auto: the run began in {dtype} and goes on in it; these devices would have taken {here}."
    if jax.default_backend() != "cpu":
        return f"dtype auto: {dtype}."
    has = "multiplies" if dtype == "bfloat16" else "has no instructions for"
    return f"dtype auto: {dtype}; this processor {has} bfloat16."
