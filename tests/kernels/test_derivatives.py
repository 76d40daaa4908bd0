"""Forward mode and second derivatives through the attention kernels, beside float64, and what runs for each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from tests.kernels.oracle import dense, dense_tangent
from tests.kernels.test_pallas import TPU, problem
from unified_jax.errors import UserError
from unified_jax.kernels import choice, pallas
from unified_jax.modalities.image import Image
from unified_jax.networks.dit import DiT


def with_tangents(case, dtype=np.float32):
    """A problem, and directions for (q, k, v, do, dlse)."""
    given = problem(*case)
    rng = np.random.default_rng(7)
    q, k, v, visible, do, dlse = given
    along = [rng.standard_normal(x.shape).astype(np.float32) for x in (q, k, v, do, dlse)]
    if dtype != np.float32:  # numbers that the short dtype has, so that float64 sees the same
        q, k, v, do, *along[:4] = (np.asarray(jnp.asarray(x, dtype), np.float32) for x in (q, k, v, do, *along[:4]))
    return (q, k, v, visible, do, dlse), along


@functools.partial(jax.jit, static_argnames=("dtype", "target"))
def both_modes(given, along, dtype=jnp.float32, target=TPU):
    """(out, lse), their tangents, and the gradient of both: of x by `crossed`, of the tangents of x."""
    q, k, v, visible, do, dlse = given
    x = tuple(jnp.asarray(t, dtype) for t in (q, k, v))
    way = tuple(jnp.asarray(t, dtype) for t in along[:3])

    def forward(x, way):
        def finite(*x):
            out, lse = pallas.attend(*x, jnp.asarray(visible), target)
            return out, jnp.where(jnp.isneginf(lse), 0.0, lse)

        return jax.jvp(finite, x, way)

    (y, dy), back = jax.vjp(forward, x, way)
    by_x, by_way = back(
        ((jnp.asarray(along[3], dtype), jnp.asarray(along[4])), (jnp.asarray(do, dtype), jnp.asarray(dlse)))
    )
    return (*y, *dy, *by_way, *by_x)


def assert_equal_to_float64(case, tolerance, dtype=jnp.float32, target=TPU, eager=False):
    given, along = with_tangents(case, dtype)
    run = both_modes.__wrapped__ if eager else both_modes
    assert_close_to_float64(run(given, tuple(along), dtype, target), given, along, tolerance)


def assert_close_to_float64(found, given, along, tolerance):
    """The gradient of a tangent is the tangent of a gradient, so one oracle serves: see `kernels.derivatives`."""
    out, lse, *gradient = dense(*given)
    dout, dlse, *moved = dense_tangent(given, along)
    expected = (out, np.where(np.isfinite(lse), lse, 0), dout, dlse, *gradient, *moved)
    names = ("out", "lse", "out.", "lse.", "q.", "k.", "v.", "q", "k", "v")
    for name, a, b in zip(names, found, expected, strict=True):
        assert np.abs(np.asarray(a, np.float64) - b).max() <= tolerance * max(np.abs(b).max(), 1e-3), name


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(("packed", 1, 150, 150, 4, 2, 8), marks=pytest.mark.nightly),
        pytest.param(("random", 2, 17, 300, 2, 1, 64), marks=pytest.mark.nightly),
        pytest.param(("window", 1, 600, 600, 1, 1, 72), marks=pytest.mark.nightly),
        pytest.param(("causal", 1, 128, 128, 2, 2, 128), marks=pytest.mark.nightly),
        pytest.param(("full", 1, 1, 1, 2, 2, 64), marks=pytest.mark.nightly),
    ],
    ids=str,
)
def test_forward_mode_and_reverse_over_forward_equal_float64(case):
    assert_equal_to_float64(case, 2e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("case", [("packed", 2, 257, 257, 4, 2, 72), ("random", 2, 17, 17, 2, 1, 64)], ids=str)
def test_in_bfloat16_they_stay_close(case):
    assert_equal_to_float64(case, 2e-2, jnp.bfloat16)


def test_no_block_outside_every_run_is_touched():
    """Blocks 1 and 2 of four lie in no run, and hold NaN; runs are empty, partial and whole blocks; two heads a key."""
    given, along = with_tangents(("full", 1, 256, 1024, 2, 1, 8))
    visible = np.zeros((1, 256, 2), np.int32)
    visible[:, ::3], visible[:, 1::3] = (0, 10), (768, 1024)
    visible[:, 5] = 800, 801
    q, k, v, _, do, dlse = given
    given = (q, k, v, visible, do, dlse)
    unread = (k, v, along[1], along[2])
    for x in unread:
        x[:, 256:768] = np.nan
    found = both_modes(given, tuple(along))
    for x in unread:
        x[:, 256:768] = 0
    assert_close_to_float64(found, given, along, 2e-5)


def operations(run, *given):
    """Which of our operations a program calls, in order."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name.startswith("attend"):
                yield equation.primitive.name
            else:
                for inner in jaxprs_in_params(equation.params):
                    yield from walk(inner)

    return list(walk(jax.make_jaxpr(run)(*given).jaxpr))


def test_one_pass_for_a_value_and_its_tangent_and_no_second_order_kernel_without_need():
    q = jnp.ones((1, 4, 1, 8))

    def out(q):
        return pallas.attend(q, q, q, None, TPU)[0]

    def tangent(q):
        return jax.jvp(out, (q,), (q,))

    def as_flow_maps_do(q):
        value, moved = tangent(q)
        return jnp.sum((value - jax.lax.stop_gradient(moved)) ** 2)

    assert operations(tangent, q) == ["attend_dual"]
    assert operations(jax.grad(lambda q: out(q).sum()), q) == ["attend", "attend_gradient"]
    assert operations(jax.grad(lambda q: tangent(q)[1].sum()), q) == ["attend_dual", "attend_crossed"]
    assert operations(jax.grad(as_flow_maps_do), q) == ["attend_dual", "attend_gradient"]


def test_scan_and_checkpoint_keep_the_rules():
    """Traced alone: the checkpointed forward pass is repeated in one pass, and nothing is lost on the way."""
    q = jnp.ones((1, 4, 1, 8))
    layer = jax.checkpoint(lambda q, _: (pallas.attend(q, q, q, None, TPU)[0], None))

    def tangent(q):
        return jax.jvp(lambda q: jax.lax.scan(layer, q, length=2)[0], (q,), (q,))[1].sum()

    assert operations(tangent, q) == ["attend_dual"]
    assert operations(jax.grad(lambda q: jax.lax.scan(layer, q, length=2)[0].sum()), q) == [
        "attend", "attend", "attend_gradient",
    ]  # fmt: skip
    assert operations(jax.grad(tangent), q) == ["attend_dual", "attend_dual", "attend_crossed"]


@pytest.mark.nightly
def test_a_network_has_them_under_scan_and_checkpoint():
    """Loss of a tangent through a whole DiT: kernels as XLA."""
    from tests.helpers import call_of  # here, as it needs Grain, which a borrowed GPU machine has not

    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 2))

    def loss(attention):
        network = DiT(depth=2, width=32, heads=2, attention=attention)
        given = call_of(Image(8, 8, 2, 2), x, jnp.asarray([0.2, 0.7]))
        params = network.init(jax.random.key(0), *given)
        params = jax.tree.map(lambda p: p + 0.05 * jax.random.normal(jax.random.key(p.size), p.shape), params)

        def value(params):
            def flow(x):
                return network.apply(params, *call_of(Image(8, 8, 2, 2), x, jnp.asarray([0.2, 0.7])))[0]["image"]

            u, du = jax.jvp(flow, (x,), (jnp.cos(x),))
            return jnp.sum(jnp.sin(u)) + jnp.sum(du**2)

        return jax.jit(jax.value_and_grad(value))(params)

    found, expected = loss("pallas"), loss("xla")
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5 * max(1.0, float(jnp.abs(b).max())))


@pytest.mark.nightly
def test_every_order_of_two_modes_agrees_with_xla_and_maps_over_a_batch():
    q, k, v, visible, do, dlse = problem("packed", 3, 40, 40, 2, 1, 8)
    x, way = (q, k, v), (np.cos(q), np.sin(k), np.cos(v))

    def all_of(attention):
        def f(*x):
            out, lse = choice.attend(*x, jnp.asarray(visible), attention=attention)
            return out, jnp.where(jnp.isneginf(lse), 0.0, lse)

        def gradient(*x):
            return jax.vjp(f, *x)[1]((do, dlse))

        def one(q, k, v, visible):
            return choice.attend(q[None], k[None], v[None], visible[None], attention=attention)[0][0]

        return (
            jax.jvp(gradient, x, way),
            jax.vjp(gradient, *x)[1](way),
            jax.jvp(lambda *x: jax.jvp(f, x, way), x, way),
            jax.linearize(f, *x)[1](*way),
            jax.vmap(jax.grad(lambda *x: one(*x).sum()))(*x, jnp.asarray(visible)),
        )

    found, expected = (jax.jit(all_of, static_argnums=0)(name) for name in ("pallas", "reference"))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, float(jnp.abs(b).max())))


@pytest.mark.nightly
def test_they_work_on_each_device_s_part():
    from unified_jax.sharding import MeshShape, Rules, make_mesh

    q, k, v, visible, _, _ = map(jnp.asarray, problem("packed", 4, 24, 24, 4, 4, 8))

    def run(attention):
        def value(q, k, v):
            out, lse = choice.attend(q, k, v, visible, attention=attention)
            return jnp.sum(jnp.sin(out)) + jnp.sum(jnp.sin(lse))

        return jax.jit(jax.grad(lambda *x: jax.jvp(value, x, (q, v, k))[1], argnums=(0, 1, 2)))(q, k, v)

    expected = run("reference")
    with Rules().active(make_mesh(MeshShape(data=2, tensor=2, sequence=2))):
        found = run("pallas")
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, float(jnp.abs(b).max())))


def test_third_derivatives_of_a_kernel_name_the_way_out():
    q = jnp.ones((1, 4, 1, 8))
    second = jax.grad(lambda q: jax.jvp(lambda q: pallas.attend(q, q, q, None, TPU)[0].sum(), (q,), (q,))[1])
    with pytest.raises(UserError, match="no third derivatives: choose attention='xla'"):
        jax.make_jaxpr(lambda q: jax.jvp(second, (q,), (q,)))(q)
