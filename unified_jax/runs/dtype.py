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
    begun = begun_in(experiment, run_dir) or (here, here)
    numbers = shared([kinds.index(one) for one in begun])  # processes may have other processors
    dtype, products = (kinds[i] for i in numbers)
    if not quiet and writes():
        say(_told(dtype, here))
    return settled(experiment, dtype, products)


def begun_in(experiment: Experiment, run_dir: Path) -> tuple[Dtype, Dtype] | None:
    """The dtype of the network and of Muon's products in config.json; None without a run, or for one of another kind.

    A run from before the products had a choice multiplied float32.
    """
    if not (run_dir / "config.json").is_file():
        return None
    config: Any = read_config(run_dir)
    dtype = _within(config, "model", networks_of(experiment.model)[0], "dtype")
    if dtype not in get_args(Dtype):
        return None
    products = _within(config, "optimizer", "rule", "products")
    return dtype, products if products in get_args(Dtype) else "float32"


def _within(config: Any, *path: str) -> Any:
    for name in path:
        config = config.get(name) if isinstance(config, dict) else None
    return config


def _told(dtype: Dtype, here: Dtype) -> str:
    if dtype != here:
        return f"dtype auto: the run began in {dtype} and goes on in it; these devices would have taken {here}."
    if jax.default_backend() != "cpu":
        return f"dtype auto: {dtype}."
    has = "multiplies" if dtype == "bfloat16" else "has no instructions for"
    return f"dtype auto: {dtype}; this processor {has} bfloat16."
