"""Conditions that are left out: their nulls."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from unified_jax.layers.form import ConditionInput


def without(shown: ConditionInput, dropped: Bool[Array, "b"]) -> ConditionInput:
    """The condition with its null for some examples."""
    match shown.form.null:
        case "none" | "default" | "empty":  # an empty value's encoding is put there by who has its encoder
            return shown
        case "row":
            return shown._replace(value=jnp.where(dropped, shown.form.features - 1, shown.value))
        case _:
            shape = (-1,) + (1,) * (shown.value.ndim - 1)
            value = jnp.where(dropped.reshape(shape), jnp.zeros_like(shown.value), shown.value)
            return shown._replace(value=value, present=jnp.asarray(shown.present) & ~dropped)


def drop(conditions: tuple[ConditionInput, ...], dropped: Bool[Array, "b l"]) -> tuple[ConditionInput, ...]:
    """Each condition with its null where its column is set; labels together."""
    found = [shown if shown.form.null == "row" else without(shown, dropped[:, i]) for i, shown in enumerate(conditions)]
    rows = [i for i, shown in enumerate(conditions) if shown.form.null == "row"]
    if not rows:
        return tuple(found)
    null = jnp.asarray([conditions[i].form.features - 1 for i in rows], jnp.int32)
    labels = jnp.stack([conditions[i].value for i in rows], axis=1)
    labels = jnp.where(dropped if len(rows) == len(conditions) else dropped[:, jnp.asarray(rows)], null, labels)
    for column, i in enumerate(rows):
        found[i] = conditions[i]._replace(value=labels[:, column])
    return tuple(found)
