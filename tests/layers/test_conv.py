"""Wide convolutions on a CPU: the plain convolution, with gradients by products of each tap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.layers import conv
from unified_jax.layers.conv import convolve

DRAW = np.random.default_rng(0)
CASES = {
    "two axes": (((9, 8), 3), (1, 1), ((1, 1), (1, 1)), ()),
    "one axis": (((9,), 3), (1,), ((1, 1),), ()),
    "stride": (((9, 8), 3), (2, 2), ((1, 1), (0, 1)), ()),
    "dilation": (((9, 8), 3), (1, 1), ((2, 2), (2, 2)), (2, 2)),
    "three axes": (((4, 6, 6), 3), (1, 1, 1), None, ()),
    "one tap": (((5, 5), 1), (1, 1), ((0, 0), (0, 0)), ()),
}


def both(monkeypatch, case):
    """(x, kernel, the convolution with products, without)."""
    (sizes, taps), stride, pads, apart = case
    x = jnp.asarray(DRAW.standard_normal((2, *sizes, 5)), jnp.float32)
    kernel = jnp.asarray(DRAW.standard_normal((*(taps,) * len(sizes), 5, 7)), jnp.float32)

    def run(wide):
        def f(x, kernel):
            monkeypatch.setattr(conv, "WIDE", wide)
            return jnp.sum(jnp.sin(convolve(x, kernel, stride, pads, 1, apart)))

        return f

    return x, kernel, run(1), run(99)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_both_orders_are_those_of_the_plain_convolution(monkeypatch, name):
    x, kernel, wide, plain = both(monkeypatch, CASES[name])
    assert wide(x, kernel) == plain(x, kernel)
    for order in (lambda f: jax.grad(f, (0, 1)), lambda f: lambda *z: jax.jvp(jax.grad(f, (0, 1)), z, z)[1]):
        found, wanted = order(wide)(x, kernel), order(plain)(x, kernel)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4)
    tangents = (jnp.cos(x), jnp.sin(kernel))
    a, b = (jax.jvp(f, (x, kernel), tangents)[1] for f in (wide, plain))
    np.testing.assert_allclose(a, b, rtol=1e-4)


def test_the_gradient_by_the_kernel_holds_no_convolution(monkeypatch):
    x, kernel, wide, plain = both(monkeypatch, CASES["two axes"])
    texts = [str(jax.make_jaxpr(jax.grad(f, 1))(x, kernel)) for f in (wide, plain)]
    counts = [[text.count(f"{name}[") for name in ("conv_general_dilated", "dot_general")] for text in texts]
    assert counts == [[1, 9], [2, 0]]  # the forward pass has one


def test_a_gradient_is_asked_of_what_is_asked_alone(monkeypatch):
    x, kernel, wide, _ = both(monkeypatch, CASES["two axes"])
    text = str(jax.make_jaxpr(jax.grad(wide, 0))(x, kernel))
    assert text.count("conv_general_dilated[") == 2 and text.count("dot_general[") == 0
