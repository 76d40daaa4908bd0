"""`Refined` starts as its backbone, acts at low noise alone, and leaves the backbone's training as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import call_of, stirred
from unified_jax.layers.form import Backbone, Supervised
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.tuned import Tuning
from unified_jax.networks.dit import DiT
from unified_jax.networks.refined import Refined
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.runs.weight_transfer import plan_graft
from unified_jax.training.compute import with_dtype

IMAGE = Image(8, 12, 3, patch=4)
TRUNK = DiT(depth=2, width=16, heads=2, remat="none")
NETWORK = Refined(TRUNK, features=8, below=200.0)
LABELS = (Label("kind", 4),)
TIMES = jnp.asarray([0.0, 199.0, 200.0, 900.0])


def model(network):
    return Diffusion(network, RectifiedFlow(target="x0"), IMAGE, LABELS, drop_all=0.0)


@pytest.fixture(scope="module")
def params():
    """Nothing is at zero."""
    return stirred(model(NETWORK).init)


def call(network, params, capture=()):
    x = jax.random.normal(jax.random.key(1), (4, *IMAGE.shape))
    noisy, labels = call_of(IMAGE, x, TIMES, [(5, np.arange(4))])
    return network.apply({"params": params}, noisy, labels, capture=capture)


def test_it_starts_as_its_backbone_and_acts_at_low_noise_alone(params):
    begun = model(NETWORK).init(jax.random.key(0)) | {"trunk": params["trunk"]}
    alone = call(TRUNK, params["trunk"])[0]["image"]
    np.testing.assert_array_equal(call(NETWORK, begun)[0]["image"], alone)
    refined, (taught, captured) = call(NETWORK, params)[0]["image"], call(NETWORK, params, ("trunk", "block/1"))
    acts, teaches = (np.abs(out - alone).max(axis=(1, 2, 3)) > 1e-3 for out in (refined, taught["image"]))
    assert acts.tolist() == [True, True, False, False] and teaches.tolist() == [True, True, True, False]
    np.testing.assert_array_equal(refined[2:], alone[2:])
    np.testing.assert_allclose(refined[:2], taught["image"][:2], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(captured["trunk"], alone)
    assert captured["block/1"].shape == (4, 6, 16)


def test_the_output_has_the_derivative_of_both_parts(params):
    """Likelihoods and flow maps differentiate by x; only training detaches the output from the backbone."""

    def out(x):
        noisy, labels = call_of(IMAGE, x, TIMES[:1], [(5, np.arange(1))])
        return NETWORK.apply({"params": params}, noisy, labels)[0]["image"]

    x, along = (jax.random.normal(jax.random.key(i), (1, *IMAGE.shape)) for i in (1, 2))
    slope = jax.jit(lambda: jax.jvp(out, (x,), (along,))[1])()
    step = 1e-2
    np.testing.assert_allclose(slope, (out(x + step * along) - out(x - step * along)) / (2 * step), atol=2e-3)
    assert float(jnp.abs(slope).max()) > 0.1


def test_the_backbone_learns_what_it_learns_alone_and_the_correction_from_low_noise(params):
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (8, *IMAGE.shape)).astype(np.uint8),
        "kind": np.arange(8) % 4,
        "slot": np.arange(8),
    }

    def slopes(network, params):
        def loss(p):
            terms, _, metrics = model(network).losses(p, {}, batch, jax.random.key(3))
            return sum(value.mean() for value, _ in terms.values()), (terms, metrics)

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    alone, (plain, counted) = slopes(TRUNK, params["trunk"])
    found, (terms, metrics) = slopes(NETWORK, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), found["trunk"], alone)
    assert set(terms) == {"mse", "trunk_mse"}
    np.testing.assert_allclose(terms["trunk_mse"][0], plain["mse"][0], rtol=1e-6)
    low = np.asarray(terms["mse"][0] != plain["mse"][0])
    times = metrics["loss_by_time"][1]
    np.testing.assert_array_equal(times, counted["loss_by_time"][1])
    assert low.sum() == np.asarray(times[:3]).sum() > 0  # bins of a tenth: t < 0.3
    moving = {name: all(np.abs(g).max() > 0 for g in jax.tree.leaves(part)) for name, part in found.items()}
    assert all(moving.values()), moving


def test_what_it_is_and_what_it_refuses(params):
    assert isinstance(NETWORK, Backbone) and isinstance(NETWORK, Supervised) and not isinstance(TRUNK, Supervised)
    assert NETWORK.takes == TRUNK.takes and NETWORK.weighs
    assert NETWORK.begins_as("trunk/patch/kernel") == "patch/kernel"
    half = with_dtype(NETWORK, "bfloat16")
    assert (half.dtype, half.trunk.dtype) == ("bfloat16", "bfloat16")
    assert call(half, params)[0]["image"].dtype == jnp.float32
    with pytest.raises(ValueError, match="multiples of its cut 5; 'image' has 8 x 12"):
        call(Refined(TRUNK, features=8, cut=5), params)
    with pytest.raises(ValueError, match="at least 1, found 0"):
        Refined(TRUNK, features=0)
    with pytest.raises(ValueError, match="learns must be at least below 120, found 100"):
        Refined(TRUNK, learns=100.0)


def test_a_plain_backbone_and_a_refined_one_start_from_each_other():
    plain, whole = model(TRUNK), model(NETWORK)
    into, back = plan_graft(plain, whole, Tuning()), plan_graft(whole, plain, Tuning())
    assert into.fresh and all(path.startswith("correction/") for path in into.fresh) and not into.left
    assert back.left == into.fresh and not back.fresh
    assert back.taken["time/fc1/kernel"].path == "trunk/time/fc1/kernel"
