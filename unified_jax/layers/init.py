"""Parameters with logical axes: kernel initialisers by explicit fan, and the one call that declares a parameter."""

import math
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.errors import UserError
from unified_jax.sharding import check_names

Init = Callable[..., Array]


def xavier(fan_in: int, fan_out: int) -> Init:
    """Glorot uniform with the fans of the flattened matrix, for any kernel shape."""
    limit = math.sqrt(6.0 / (fan_in + fan_out))
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -limit, limit)


def normal(std: float) -> Init:
    """N(0, std^2)."""
    return lambda key, shape, dtype=jnp.float32: std * jax.random.normal(key, shape, dtype)


def zeros(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """All zero: biases, and the modulation and output layers that make a block the identity at the start."""
    del key
    return jnp.zeros(shape, dtype)


def ones(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """All one: gains."""
    del key
    return jnp.ones(shape, dtype)


def declare(module: nn.Module, name: str, init: Init, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> Array:
    """The float32 parameter `name` of a module, with one logical axis name (or None) for each of its axes."""
    check_names(axes)
    if len(axes) != len(shape):
        raise UserError(f"Parameter {name!r} of shape {shape} needs {len(shape)} axis names, found {axes}.")
    value = module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)
    return cast(Array, value)  # Linen unboxes it
