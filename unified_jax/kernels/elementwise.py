"""Biases and activations of bfloat16 arrays on a CPU: computed in float32, rounded once.

XLA's CPU compiler rounds the result of every bfloat16 operation by itself. An activation and its gradient then take up
to three times as long, and a sum over rows, the gradient of a bias, is rounded after every addition, in a slow loop.
Other devices and dtypes compute as ever.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.kernels.product import applies


def add_bias(y: Array, bias: Array) -> Array:
    """y + b in y's dtype; b broadcasts against the last axes."""
    if not applies(y.dtype):
        return y + bias.astype(y.dtype)
    return (y.astype(jnp.float32) + bias.astype(jnp.float32)).astype(y.dtype)


def activate(function: Callable[..., Array], *arrays: Array) -> Array:
    """A function of each element of arrays of one dtype, in that dtype."""
    dtype = arrays[0].dtype
    if not applies(dtype):
        return function(*arrays)
    return function(*(x.astype(jnp.float32) for x in arrays)).astype(dtype)
