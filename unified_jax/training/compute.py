"""The compute dtype that suits the devices, where an experiment leaves the choice: `Experiment.dtype = "auto"`."""

import dataclasses
from typing import Any, Literal

from unified_jax.config import fields_of, hints_of
from unified_jax.errors import UserError
from unified_jax.precision import multiplies_bfloat16
from unified_jax.training.experiment import Experiment

Dtype = Literal["float32", "bfloat16"]


def fastest(platform: str) -> Dtype:
    """bfloat16 on accelerators and on processors with instructions for it, else float32."""
    return "bfloat16" if platform != "cpu" or multiplies_bfloat16() else "float32"


def settled(experiment: Experiment, dtype: Dtype) -> Experiment:
    """The experiment with this dtype in the networks of its model, if it left the choice; otherwise as it is."""
    if experiment.dtype == "network":
        return experiment
    model: Any = experiment.model
    changes = {name: with_dtype(getattr(model, name), dtype) for name in networks_of(model)}
    return dataclasses.replace(experiment, model=dataclasses.replace(model, **changes), dtype="network")


def networks_of(model: Any) -> list[str]:
    """Fields of a model that hold a network with a compute dtype. Raises UserError without any."""
    found = [f.name for f in fields_of(model) if hints_of(type(getattr(model, f.name))).get("dtype") == Dtype]
    if not found:
        raise UserError(f"--dtype auto: {type(model).__name__} has no network with a compute dtype to choose.")
    return found


def with_dtype(network: Any, dtype: Dtype) -> Any:
    """A network that computes in this dtype."""
    clone = getattr(network, "clone", None)
    return clone(dtype=dtype) if clone else dataclasses.replace(network, dtype=dtype)
