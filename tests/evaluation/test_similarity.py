"""CKA against what it must be: 1 for the same up to rotation and scale, about 0 for what has nothing in common."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import stirred
from unified_jax.data.packing import Documents
from unified_jax.data.pipeline import Pipeline
from unified_jax.data.world import World
from unified_jax.evaluation.probes.documents import clean_inputs, lay_out
from unified_jax.evaluation.probes.features import trunk_features
from unified_jax.evaluation.probes.similarity import biased_linear_cka, compare, gram, linear_cka, unbiased_hsic
from unified_jax.modalities.image import Image
from unified_jax.modalities.points import Points
from unified_jax.modalities.text import Text
from unified_jax.models.transfusion import Stream, Transfusion
from unified_jax.networks.transfusion import Trunk


def gaussian(n, d, seed):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_the_estimator_by_its_definition():
    """HSIC as a mean over all ordered quadruples of different examples (Song et al. 2012, eq. 3 of section 3.1):

    E over pairs k_ij l_ij + E k_ij E l_qr over four different ones - 2 E k_ij l_iq over three different ones.
    """
    k, other = gram(gaussian(7, 3, 0)), gram(gaussian(7, 5, 1))
    pairs = np.mean([k[i, j] * other[i, j] for i, j in itertools.permutations(range(7), 2)])
    triples = np.mean([k[i, j] * other[i, q] for i, j, q in itertools.permutations(range(7), 3)])
    four = np.mean([k[i, j] * other[q, r] for i, j, q, r in itertools.permutations(range(7), 4)])
    assert unbiased_hsic(k, other) == pytest.approx(pairs + four - 2 * triples, rel=1e-10)
    with pytest.raises(ValueError, match="at least 4 examples, found 3"):
        unbiased_hsic(k[:3, :3], k[:3, :3])


def test_rotation_scale_and_shift_change_nothing():
    x = gaussian(64, 48, 0) * np.linspace(0.1, 3, 48, dtype=np.float32)
    turn, _ = np.linalg.qr(gaussian(48, 48, 1))
    assert linear_cka(x, x) == pytest.approx(1.0)
    assert linear_cka(x, 7 * (x @ turn) + 100) == pytest.approx(1.0, abs=1e-6)
    y = gaussian(64, 30, 2) + x[:, :30]
    assert linear_cka(x, y) == pytest.approx(linear_cka(x @ turn + 3, y), abs=1e-5)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x))
    assert 0.1 < linear_cka(x, y) < 0.9


def test_independent_features_have_none_and_the_biased_estimate_says_otherwise():
    """As many features as scenes: unbiased within 0.03 of 0, biased near d / (n + d) = 0.5."""
    pairs = [(gaussian(128, 128, 2 * i), gaussian(128, 128, 2 * i + 1)) for i in range(20)]
    found = [linear_cka(x, y) for x, y in pairs]
    assert max(np.abs(found)) < 0.03
    assert abs(np.mean(found)) < 0.005
    assert biased_linear_cka(*pairs[0]) == pytest.approx(0.5, abs=0.02)


def test_the_expected_value_does_not_depend_on_the_number_of_scenes():
    """Features that share half their variance: CKA of many scenes is met on average by few."""

    def some(n, seed):
        common = gaussian(n, 16, seed)
        return common + gaussian(n, 16, seed + 1), common + gaussian(n, 16, seed + 2)

    many = linear_cka(*some(2000, 0))
    few = np.mean([linear_cka(*some(24, 3 * i + 10)) for i in range(60)])
    assert few == pytest.approx(many, abs=0.03)
    assert np.mean([biased_linear_cka(*some(24, 3 * i + 10)) for i in range(60)]) > many + 0.1


def test_comparison_of_depths_and_its_control():
    x, y = gaussian(64, 8, 0), gaussian(64, 8, 1)
    still = np.ones_like(x)
    features = np.stack([np.stack([x, x, y]), np.stack([x, y, still])])
    found = compare(features, seed=3, shuffles=5)
    assert found.cka.shape == found.biased.shape == (2, 3, 3)
    assert found.shuffled.shape == (5, 2, 3, 3)
    assert found.cka[0, 0, 1] == pytest.approx(1.0)
    assert np.abs(found.shuffled[:, 0, 0, 1]).max() < 0.15
    assert abs(found.cka[0, 0, 2]) < 0.15
    assert found.cka[1, 0, 1] == pytest.approx(linear_cka(x, y))
    assert found.biased[1, 0, 1] == pytest.approx(biased_linear_cka(x, y))
    assert np.isnan(found.cka[1, 2]).all() and np.isnan(found.biased[1, 2, 0]) and np.isnan(linear_cka(x, still))


@pytest.mark.slow
def test_features_are_means_over_content_and_do_not_depend_on_the_batch():
    model = Transfusion(
        Trunk(depth=2, width=32, heads=2, remat="none"), Text(112), (Stream(Image(16, 16, 3, 8)),
        Stream(Points(64, 6, 16))), 200, Documents(),
    )  # fmt: skip
    params = stirred(model.init)
    arrays = Pipeline(World(resolution=16, max_objects=1, points=64), "test", model.modalities, 5, 0).batch(0).arrays
    values = {name: arrays[name] for name in ("caption", "image", "points")}
    done = []
    found = trunk_features(model, params, values, 3, done.append)
    assert found.shape == (3, 3, 5, 32)
    assert done == [3, 2, 3, 2, 3, 2]
    np.testing.assert_allclose(trunk_features(model, params, values, 5), found, atol=1e-5)
    one = {"caption": values["caption"][4:]}
    batch = jax.tree.map(jnp.asarray, lay_out(model, one))
    call = jax.jit(model.forward, static_argnames="capture")
    _, _, captured = call(params, batch, tuple(clean_inputs(model, params, batch)), capture=True)
    length = int((one["caption"][0] >= 0).sum())
    np.testing.assert_allclose(captured.hidden[:, 0, 2 : 2 + length].mean(axis=1), found[:, 0, 4], atol=1e-5)
