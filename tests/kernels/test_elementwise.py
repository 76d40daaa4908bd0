"""Biases and activations of bfloat16 arrays on a CPU: beside float64, and unchanged elsewhere."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.kernels import product
from unified_jax.kernels.elementwise import activate, add_bias
from unified_jax.layers.conv import Conv
from unified_jax.layers.mlp import Dense

ROWS = 4096


@pytest.mark.parametrize("module", [Dense(3, (None, None), dtype=jnp.bfloat16), Conv(3, dtype=jnp.bfloat16)])
def test_the_gradient_of_a_bias_is_summed_in_float32(module):
    """Integers below 256 add up exactly there; rounded to bfloat16 after every addition they are a percent off."""
    x, weights = jnp.zeros((1, ROWS, 2)), np.random.default_rng(0).integers(1, 255, (1, ROWS, 1))
    params = module.init(jax.random.key(0), x)
    given = jnp.asarray(weights, jnp.float32)
    found = jax.jit(jax.grad(lambda params: jnp.sum(given * module.apply(params, x).astype(jnp.float32))))(params)
    np.testing.assert_array_equal(jax.tree.leaves(found["params"]["bias"])[0], np.full(3, weights.sum()))


def test_a_bias_is_added_before_the_sum_is_rounded():
    y, b = jnp.asarray([1.0, 256.0], jnp.bfloat16), jnp.asarray([2.0**-9, 1.0 + 2.0**-8])
    found = add_bias(y, b)
    wanted = np.asarray(y, np.float64) + np.asarray(b, np.float64)
    np.testing.assert_array_equal(np.asarray(found), wanted.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16 and float(found[1]) != float(y[1] + b[1].astype(jnp.bfloat16))


def gelu(x):
    """(the function, its derivative) in float64."""
    c = math.sqrt(2 / math.pi)
    inner = c * (x + 0.044715 * x**3)
    tanh = np.tanh(inner)
    slope = 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * c * (1 + 3 * 0.044715 * x**2)
    return 0.5 * x * (1 + tanh), slope


def test_an_activation_and_its_derivative_are_rounded_once():
    """In bfloat16 throughout, the derivative is wrong by several units in the last place: the second check sees it."""
    x = jnp.linspace(-3, 3, 2001).astype(jnp.bfloat16)
    short = lambda f: jax.grad(lambda x: jnp.sum(f(x).astype(jnp.float32)))  # noqa: E731
    ours = functools.partial(activate, jax.nn.gelu)
    value, slope = gelu(np.asarray(x, np.float64))
    unit = 2.0**-8
    far = lambda found: np.max(np.abs(np.asarray(found, np.float64) - slope) / (unit * np.abs(slope) + 1e-5))  # noqa: E731
    assert np.all(np.abs(np.asarray(ours(x), np.float64) - value) <= unit * np.abs(value) + 1e-5)
    assert far(short(ours)(x)) <= 1 < far(short(jax.nn.gelu)(x))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_only_bfloat16_on_a_cpu_is_computed_so(monkeypatch, platform, dtype):
    monkeypatch.setattr(product, "device", lambda: (platform, "any"))
    y, b = jnp.ones((4, 8), dtype), jnp.ones(8)

    def ours(y, b):
        return activate(lambda x, y: jax.nn.silu(x) * y, add_bias(y, b), y)

    def plain(y, b):
        x = y + b.astype(y.dtype)
        return jax.nn.silu(x) * y

    same = str(jax.make_jaxpr(ours)(y, b)) == str(jax.make_jaxpr(plain)(y, b))
    assert same == (platform != "cpu" or dtype == jnp.float32)
    assert ours(y, b).dtype == dtype
