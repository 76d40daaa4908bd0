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


def settled(experiment: Experiment, dtype: Dtype, products: Dtype | None = None) -> Experiment:
    """The experiment with this dtype in the networks of its model, if it left the choice; otherwise as it is.

    `products` is the dtype of the operands in an optimizer that has a choice (Muon); without, it is `dtype`.
    """
    if experiment.dtype == "network":
        return experiment
    model: Any = experiment.model
    rule: Any = experiment.optimizer.rule
    model = dataclasses.replace(model, **{name: with_dtype(getattr(model, name), dtype) for name in networks_of(model)})
    if hints_of(type(rule)).get("products") == Dtype:
        rule = dataclasses.replace(rule, products=products or dtype)
    optimizer = dataclasses.replace(experiment.optimizer, rule=rule)
    return dataclasses.replace(experiment, model=model, optimizer=optimizer, dtype="network")


def networks_of(model: Any) -> list[str]:
    """Fields of a model that hold a network with a compute dtype. Raises UserError without any."""
    found = [f.name for f in fields_of(model) if _computes(getattr(model, f.name))]
    if not found:
        raise UserError(f"--dtype auto: {type(model).__name__} has no network with a compute dtype to choose.")
    return found


def with_dtype(network: Any, dtype: Dtype) -> Any:
    """A network that computes in this dtype, with the networks that it is built around."""
    changes: Any = {name: with_dtype(getattr(network, name), dtype) for name in _inner(network)}
    if _computes(network):
        changes["dtype"] = dtype
    clone = getattr(network, "clone", None)
    return clone(**changes) if clone else dataclasses.replace(network, **changes)


def _computes(network: Any) -> bool:
    return hints_of(type(network)).get("dtype") == Dtype


def _inner(network: Any) -> list[str]:
    """Fields of a Linen module that hold modules with a compute dtype."""
    held = fields_of(network) if hasattr(network, "clone") else ()
    return [f.name for f in held if hasattr(value := getattr(network, f.name), "clone") and _computes(value)]
