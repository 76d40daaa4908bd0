import numpy as np
import pytest

from unified_jax.data.world import World
from unified_jax.data.world.read import read_image
from unified_jax.evaluation.attributes import attribute_hits, chance, sample_accuracy
from unified_jax.evaluation.distances import (
    frechet,
    frechet_distance,
    inception_score,
    kernel_distance,
    moments,
    pooled_pixels,
)
from unified_jax.evaluation.neighbours import precision_recall
from unified_jax.evaluation.statistics import wilson_interval


def test_frechet_distance_has_its_closed_form_for_diagonal_gaussians():
    mu1, mu2, s1, s2 = np.asarray([0.0, 1.0]), np.asarray([2.0, 1.0]), np.asarray([1.0, 4.0]), np.asarray([9.0, 0.0])
    expected = 4.0 + ((np.sqrt(s1) - np.sqrt(s2)) ** 2).sum()
    assert frechet_distance(mu1, np.diag(s1), mu2, np.diag(s2)) == pytest.approx(expected, rel=1e-12)


def test_frechet_is_symmetric_rotation_invariant_and_survives_few_samples():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 8)), rng.normal(size=(5, 8)) + 1
    rotation, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    assert frechet(a, a) == pytest.approx(0.0, abs=1e-10)
    # b has fewer vectors than features: eigenvalues that should be 0 enter by their roots, about 1e-8
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-7)
    assert frechet(a, b) == pytest.approx(frechet(a @ rotation, b @ rotation), rel=1e-7)
    with pytest.raises(ValueError, match="at least two"):
        moments(a[:1])
    with pytest.raises(ValueError, match="not finite"):
        moments(np.full((3, 2), np.nan))


def test_pooled_pixels_are_cell_means():
    images = np.arange(2 * 8 * 8 * 3, dtype=np.float64).reshape(2, 8, 8, 3)
    features = pooled_pixels(images)
    assert features.shape == (2, 48)
    np.testing.assert_allclose(features[1, :3], images[1, :2, :2].mean((0, 1)))


def test_wilson_interval():
    low, high = wilson_interval(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-3), pytest.approx(0.5962, abs=1e-3))
    assert wilson_interval(1.0, 50)[1] == pytest.approx(1.0)
    assert wilson_interval(1.0, 50)[0] > 0.9
    with pytest.raises(ValueError, match="n >= 1"):
        wilson_interval(0.5, 0)


def test_true_renders_score_one_and_wrong_ones_by_their_attributes():
    source = World(max_objects=1).source("test")
    examples = [source[i] for i in range(64)]
    images = np.stack([np.asarray(e["image"]) for e in examples])
    asked = {n: np.stack([np.asarray(e[n]) for e in examples]) for n in ("shape", "colour", "size", "place")}
    names, hits, named = attribute_hits(read_image(images), asked)
    assert sample_accuracy(hits, named).mean() == 1.0
    asked["colour"] = (asked["colour"] + 1) % 8
    asked["shape"] = np.full(64, 6, np.int32)  # not given
    _, hits, named = attribute_hits(read_image(images), asked)
    assert sample_accuracy(hits, named).mean() == pytest.approx(2 / 3)
    assert chance(names) == pytest.approx((1 / 6 + 1 / 8 + 1 / 3 + 1 / 9) / 4)


def test_two_objects_do_not_pass_for_one():
    pair = next(e for e in (World().source("test")[i] for i in range(50)) if e["count"] == 2)
    asked = {"shape": np.asarray([pair["shape"]])}
    _, hits, _ = attribute_hits(read_image(np.asarray(pair["image"])[None]), asked)
    assert hits.sum() == 0


def test_kernel_distance_is_unbiased_and_sees_a_shift():
    rng = np.random.default_rng(0)
    draws = [kernel_distance(*rng.normal(size=(2, 60, 4))) for _ in range(200)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / np.sqrt(200)
    a, b = rng.normal(size=(500, 4)), rng.normal(size=(400, 4)) + 1.0
    assert kernel_distance(a, b, subset=200, subsets=5) > 20 * np.std(draws) / np.sqrt(200)
    with pytest.raises(ValueError, match="at least two"):
        kernel_distance(a[:1], b)


def test_precision_and_recall():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(60, 3))
    assert precision_recall(a, a) == (1.0, 1.0)
    assert precision_recall(a, a + 100) == (0.0, 0.0)
    part = a[a[:, 0] > 0] + 1e-6  # half of the set: precise, and without recall of the rest
    precision, recall = precision_recall(a, part)
    assert precision == 1.0
    assert recall < 0.9
    with pytest.raises(ValueError, match="neighbours"):
        precision_recall(a[:3], a)


def test_inception_score_of_balanced_certainty_is_the_number_of_classes():
    sure = np.eye(7)[np.arange(70) % 7]
    assert inception_score(sure, 2) == (pytest.approx(7.0), pytest.approx(0.0, abs=1e-9))
    assert inception_score(np.full((10, 7), 1 / 7), 1)[0] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="splits"):
        inception_score(sure, 71)
