"""A function of rows that runs on a few of them at a time, so that its memory and its rounding depend on no batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.sharding import constrain, parts_of


def in_groups(run: Callable[[Array], Any], x: Array, rows: int) -> Any:
    """`run` on so many rows of every device at a time, one group after the other; the last is filled up."""
    parts = parts_of("batch")
    parts = parts if len(x) % parts == 0 else 1
    each = len(x) // parts
    count = -(-each // rows)
    x = x.reshape(parts, each, *x.shape[1:])
    x = jnp.pad(x, [(0, 0), (0, count * rows - each)] + [(0, 0)] * (x.ndim - 2), mode="edge")
    x = x.reshape(parts, count, rows, *x.shape[2:]).swapaxes(0, 1).reshape(count, parts * rows, *x.shape[2:])

    def back(a: Array) -> Array:
        a = a.reshape(count, parts, rows, *a.shape[2:]).swapaxes(0, 1).reshape(parts, count * rows, *a.shape[2:])
        return a[:, :each].reshape(parts * each, *a.shape[2:])

    return jax.tree.map(back, jax.lax.map(run, constrain(x, None, "batch", *(None,) * (x.ndim - 2))))
