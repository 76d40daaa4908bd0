"""`computed_once`: the same function and derivatives, and backward loops that do not grow with the depth."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from tests.helpers import call_of
from unified_jax.layers import remat
from unified_jax.layers.remat import computed_once
from unified_jax.modalities.image import Image
from unified_jax.networks.dit import DiT


def blocks(weights: Array, x: Array, once: bool) -> Array:
    """Residual blocks, one after the other, each a norm and a product."""
    for weight in weights:
        h = nn.LayerNorm(use_bias=False, use_scale=False).apply({}, x)
        x = x + jnp.tanh(h @ weight)
        x = computed_once(x) if once else x
    return x


def inputs(depth: int) -> tuple[Array, Array]:
    keys = jax.random.split(jax.random.key(0))
    return 0.1 * jax.random.normal(keys[0], (depth, 64, 64)), jax.random.normal(keys[1], (4, 32, 64))


def gradient_of(once: bool) -> jax.stages.Wrapped:
    return jax.jit(jax.grad(lambda weights, x: jnp.sum(blocks(weights, x, once) ** 2)))


def most_read(depth: int) -> int:
    """Most arrays that a loop over the stream `[2, 24, 32]` reads, in the compiled gradient of an unrolled DiT."""
    network = DiT(depth=depth, width=32, heads=2, remat="none", unroll=depth)
    given = call_of(Image(8, 12, 3, 2), jnp.ones((2, 8, 12, 3)), jnp.ones(2), ((3, jnp.zeros(2)),))

    def loss(params: Any) -> Array:
        return jnp.sum(network.apply(params, *given)[0]["image"] ** 2)

    params = jax.eval_shape(network.init, jax.random.key(0), *given)
    program = jax.jit(jax.grad(loss)).lower(params).compile().as_text()
    loops = re.findall(r"^%fused_computation\S* \((.*?)\) -> f32\[(?:2,24|48),32\]", program, re.M)
    return max(loop.count(": ") for loop in loops)


def test_no_loop_reads_what_all_later_blocks_add(monkeypatch: pytest.MonkeyPatch) -> None:
    few = most_read(depth=6)
    assert few < 20
    monkeypatch.setattr(remat, "device", lambda: ("other", "other"))
    # Where this fails, XLA no longer needs our help: drop `computed_once`.
    assert most_read(depth=6) > 3 * few


def test_values_and_both_kinds_of_derivative_stay() -> None:
    weights, x = inputs(3)
    np.testing.assert_array_equal(blocks(weights, x, True), blocks(weights, x, False))
    for got, wanted in zip(gradient_of(True)(weights, x), gradient_of(False)(weights, x), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    forward = [jax.jvp(lambda x, once=once: blocks(weights, x, once), (x,), (x,))[1] for once in (True, False)]
    np.testing.assert_allclose(*forward, atol=1e-6)


def test_other_devices_pay_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remat, "device", lambda: ("tpu", "TPU v5p"))
    text = str(jax.make_jaxpr(jax.grad(lambda x: jnp.sum(computed_once(x))))(jnp.ones((2, 3, 4))))
    assert "dot_general" not in text
