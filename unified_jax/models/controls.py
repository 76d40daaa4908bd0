r"""Control conditions: they say how a picture was made (its size, where it was cut), not what it shows.

    c = e(t) + sum_i e(semantic_i) + sum_j w_j(t) e(control_j),       w_j(t) = ((1 + cos pi t) / 2)^a_j

Time is the house's: 0 is data, 1 noise. At noise, where what a picture shows is decided, the weight is 0, and a control
condition says nothing; at data, where details are added, it is 1 (Berrada Ifriqi et al. 2024, arXiv 2411.03177). The
exponent a is `Condition.control`; 0 leaves a condition at full strength at every time.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.layers.form import ConditionInput

KINDS = ("label", "vector", "scalars")
"""Conditions whose embedding can be scaled: those that join the embedding of time, or are one token."""


def control_weight(t: Float[Array, "b"], exponent: float) -> Float[Array, "b"]:
    """w(t), for t on the unit interval."""
    return jnp.maximum(0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(t, 0.0, 1.0))), 0.0) ** exponent


def controlled(model: Any, conditions: tuple[ConditionInput, ...], times: Any) -> tuple[ConditionInput, ...]:
    """The conditions of a model of streams, controls with their weights. `times()` is each example's unit time."""
    if not any(one.control for one in model.reads):
        return conditions
    t = times()
    pairs = zip(model.reads, conditions, strict=True)
    return tuple(
        shown._replace(weight=control_weight(t, one.control)) if one.control else shown for one, shown in pairs
    )


def check_control(label: str, control: float, kind: str) -> None:
    """Raises ValueError for an exponent that is negative, or of a condition that cannot be scaled."""
    if control < 0.0:
        raise ValueError(f"Condition.control is an exponent of at least 0, found {control}.")
    if control and kind not in KINDS:
        raise ValueError(
            f"The condition {label!r} is a {kind}, and a control condition is one of {', '.join(KINDS)}: leave control "
            "at 0."
        )


def check_controls(model: Any, owner: str) -> None:
    """Raises ValueError where control conditions have no single time, or the network ignores their weight."""
    controls = [one.label for one in model.reads if one.control]
    if not controls:
        return
    if len({stream.clock for stream in model.streams}) > 1:
        raise ValueError(
            f"{owner}: the control condition {controls[0]!r} needs one time, and the streams have several."
        )
    if not getattr(model.network, "weighs", False):
        raise ValueError(
            f"{owner}: {type(model.network).__name__} does not scale conditions, and {controls[0]!r} is a control "
            "condition; a network that reads ConditionInput.weight says so by weighs = True."
        )
