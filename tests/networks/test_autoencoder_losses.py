"""Losses of autoencoders: what they give where the answer is known, and that gradients stay finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.models.autoencoders import losses
from unified_jax.networks.lpips import Lpips, unit
from unified_jax.networks.patchgan import PatchGan
from unified_jax.sharding import MeshShape, Rules, make_mesh, unbox

X = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3), minval=-1.0)


def alex():
    """(network, images, parameters)."""
    network = Lpips("alex")
    x = jax.image.resize(X[:1], (1, 35, 35, 3), "nearest")
    shapes = unbox(jax.eval_shape(network.init, jax.random.key(1), x, x))
    rng = np.random.default_rng(0)
    return (
        network,
        x,
        jax.tree.map(lambda leaf: jnp.asarray(0.05 * abs(rng.normal(size=leaf.shape)), jnp.float32), shapes),
    )


def test_lpips_is_zero_for_equal_images_alone():
    network, x, params = alex()
    distance = jax.jit(network.apply)
    assert float(distance(params, x, x).sum()) == 0
    assert float(distance(params, x, -x).sum()) > 0


@pytest.mark.nightly
def test_gradients_of_lpips_are_finite_where_features_are_zero():
    network, x, params = alex()
    dead = jax.tree.map(lambda leaf: leaf * 0, params)  # every feature is zero
    distance = jax.jit(jax.value_and_grad(lambda x, params, y: network.apply(params, x, y).sum()))
    for given in (params, dead):
        assert np.isfinite(distance(x, given, -x)[1]).all()
    slope = jax.grad(lambda v: unit(v)[0].sum())(jnp.zeros((2, 3)))
    np.testing.assert_array_equal(slope, np.zeros((2, 3)))


def test_a_discriminator_of_a_sharded_batch_takes_the_statistics_of_the_whole():
    network = PatchGan(4, 2)
    variables = unbox(network.init(jax.random.key(1), X))
    x = jnp.concatenate([X, X * 0.1 + 1.0])
    step = jax.jit(lambda v, x: network.apply(v, x, True, mutable=["running"]))
    logits, moved = step(variables, x)
    assert logits.shape == (8, 2, 2, 1)
    mesh, rules = make_mesh(MeshShape(data=8)), Rules()
    with rules.active(mesh):
        cut = jax.device_put(x, jax.sharding.NamedSharding(mesh, rules.activation_spec(("batch", None, None, None))))
        again, also = step(variables, cut)
    np.testing.assert_allclose(again, logits, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), also, moved)
    fixed = network.apply(variables, x)
    np.testing.assert_allclose(network.apply(variables, x[:3]), fixed[:3], atol=1e-5)
    assert float(jnp.abs(fixed - logits).max()) > 1e-3


def test_terms_have_their_closed_forms():
    zero = jnp.zeros((2, 3, 3, 1))
    assert float(losses.hinge(zero, zero)) == 1
    assert float(losses.vanilla(zero, zero)) == pytest.approx(np.log(2))
    # The distance of an image counts once for each of its numbers.
    e = losses.errors(X, X + 0.5, jnp.arange(4.0))
    assert float(losses.summed(e)) == pytest.approx(16 * 16 * 3 * (0.5 + 1.5), rel=1e-5)
    s = 0.3
    learned = 16 * 16 * 3 * (2.0 / np.exp(s) + s)
    assert float(losses.summed(e, jnp.asarray(s))) == pytest.approx(learned, rel=1e-4)
    # The adaptive weight makes the two gradients equally long, whatever the scale of the second.
    main, other = jnp.full((3,), 2.0), jnp.asarray([3.0, 0.0, 4.0])
    assert float(losses.adaptive(main, other)) == pytest.approx(np.sqrt(12) / 5, rel=1e-4)
    assert float(losses.adaptive(main, 10 * other) * 10) == pytest.approx(np.sqrt(12) / 5, rel=1e-4)
    assert float(losses.adaptive(main, 0 * other)) == 1e4
    assert [float(losses.started(k, 5)) for k in (4, 5, 6)] == [0, 1, 1]


def test_vf_terms_are_zero_for_the_features_themselves_turned_and_scaled():
    f = jax.random.normal(jax.random.key(2), (2, 5, 4))
    turn, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(3), (4, 4)))
    assert float(losses.vf_cosines(3 * f, f)) == pytest.approx(0, abs=1e-5)
    assert float(losses.vf_cosines(-f, f)) == pytest.approx(2, abs=1e-5)
    assert float(losses.vf_cosines(-f, f, 0.5)) == pytest.approx(1.5, abs=1e-5)
    assert float(losses.vf_distances(3 * f @ turn, f)) == pytest.approx(0, abs=1e-5)
    far = jnp.stack([jnp.eye(4)[:2], jnp.eye(4)[:2]])
    assert float(losses.vf_distances(far, jnp.ones_like(far))) == pytest.approx(0.5, abs=1e-5)
    assert float(losses.vf_distances(far, jnp.ones_like(far), 0.25)) == pytest.approx(0.375, abs=1e-5)
