"""Distances between sets: intervals, manifolds, subsets, statistics, against closed forms and plain programs."""

import numpy as np
import pytest

from unified_jax.errors import UserError
from unified_jax.evaluation.comparison import Measures, compare
from unified_jax.evaluation.distances import frechet, frechet_distance, kernel_distance, moments, subset_rows
from unified_jax.evaluation.feature_sets import Statistics, Vectors, read_statistics, statistics_of
from unified_jax.evaluation.intervals import against_moments, frechet_interval, kernel_interval
from unified_jax.evaluation.neighbours import precision_recall

SCALES = np.arange(1, 25) ** -0.5


def drawn(seed, n, shift=0.0):
    return (np.random.default_rng(seed).normal(size=(n, 24)) * SCALES + shift * SCALES).astype(np.float32)


def test_moments_in_pieces_are_numpy_s():
    x = drawn(0, 9000) + 100
    mean, cov = moments(x)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-12)


def test_few_vectors_of_many_features_have_the_same_distance():
    a, b = np.random.default_rng(0).normal(size=(2, 12, 40))
    assert frechet(a, b + 1) == pytest.approx(frechet_distance(*moments(a), *moments(b + 1)), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(400, 400), (300, 800), (60, 60)])
def test_two_halves_of_one_set_have_an_interval_that_holds_0(n, m):
    held = [frechet_interval(drawn(2 * i, n), drawn(2 * i + 1, m), seed=i) for i in range(12)]
    assert sum(one.low <= 0 <= one.high for one in held) >= 10
    assert abs(np.mean([one.centre for one in held])) < 0.3 * frechet(drawn(0, n), drawn(1, m))  # the bias is gone
    kernel = [kernel_interval(drawn(2 * i, n), drawn(2 * i + 1, m), seed=i) for i in range(12)]
    assert sum(one.low <= 0 <= one.high for one in kernel) >= 10


def test_an_interval_holds_the_distance_of_the_distributions():
    shift = 0.5
    truth = float(np.sum((shift * SCALES) ** 2))
    found = [frechet_interval(drawn(2 * i, 500), drawn(2 * i + 1, 500, shift), seed=i) for i in range(12)]
    assert sum(one.low <= truth <= one.high for one in found) >= 9
    assert all(one.low > 0 for one in found)
    known = np.zeros(24), np.diag(SCALES**2)
    found = [against_moments(drawn(i, 500, shift), known, seed=i) for i in range(12)]
    assert sum(one.low <= truth <= one.high for one in found) >= 9
    assert np.isnan(against_moments(drawn(0, 50), known).low)


def plain_precision_recall(real, made, k):
    def distances(a, b):
        return np.stack([np.sqrt(((row - b) ** 2).sum(1)) for row in a])

    def covered(centres, probes):
        return (distances(probes, centres) <= np.sort(distances(centres, centres), 1)[:, k]).any(1).mean()

    return covered(real, made), covered(made, real)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_every_pair(k):
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(2, 2300, 3)) + 100
    made[:20], real[30:40] = real[:20], real[40:50]  # duplicates
    for a, b in ((real, made[:300]), (np.round(real[:200]), np.round(made[:150]))):  # and ties
        assert precision_recall(a, b, k) == plain_precision_recall(a, b, k)


def test_subsets_are_those_of_the_published_programs():
    rng = np.random.RandomState(2020)
    theirs = [(rng.choice(50, 9, replace=False), rng.choice(40, 9, replace=False)) for _ in range(3)]
    for (a, b), (c, d) in zip(subset_rows(50, 40, 9, 3, "torch_fidelity", 2020), theirs, strict=True):
        assert a.tolist() == c.tolist()
        assert b.tolist() == d.tolist()
    np.random.seed(7)
    second, first = np.random.choice(40, 9, replace=False), np.random.choice(50, 9, replace=False)
    a, b = next(iter(subset_rows(50, 40, 9, 1, "clean", 7)))
    assert (a.tolist(), b.tolist()) == (first.tolist(), second.tolist())
    assert kernel_distance(drawn(0, 50), drawn(1, 50), subset=50) == kernel_distance(drawn(0, 50), drawn(1, 50))


def test_rows_name_extractor_set_and_n(tmp_path):
    a, b = Vectors("A", {"pool": drawn(0, 60)}), Vectors("B", {"pool": drawn(1, 50, 1.0)})
    rows = {row["metric"]: row for row in compare(a, b, "own")}
    assert set(rows) == {"frechet", "kernel", "precision", "recall"}  # no spatial features, no logits
    row = rows["frechet"]
    assert (row["n"], row["n_reference"], row["extractor"], row["reference"]) == (50, 60, "own", "A")
    assert row["value"] == frechet(drawn(0, 60), drawn(1, 50, 1.0))
    assert row["low"] < row["high"]
    quick = compare(a, b, "own", Measures(("frechet",), intervals=False))
    assert [(r["value"], r["low"]) for r in quick] == [(row["value"], None)]
    assert compare(a, b, "inception (fid, 12345678) adm", Measures(("frechet",), False))[0]["metric"] == "fid"


def test_statistics_are_read_as_they_were_written(tmp_path):
    one = Vectors("A", {"pool": drawn(0, 90), "spatial": drawn(1, 90)})
    np.savez(tmp_path / "s.npz", **statistics_of(one, "inception (fid, 1) adm"))
    found = read_statistics(tmp_path / "s.npz")
    assert (found.label, found.count) == ("inception (fid, 1) adm", 90)
    assert not found.of("inception (fid, 1) clean")  # another preprocessing
    b = Vectors("B", {"pool": drawn(2, 90, 1.0), "spatial": drawn(3, 90)})
    known = Statistics("A", found.of(found.label), found.count)
    rows = compare(known, b, found.label)
    assert [row["metric"] for row in rows] == ["fid", "sfid"]
    direct = compare(one, b, found.label, Measures(("frechet", "spatial")))
    assert [row["value"] for row in rows] == pytest.approx([row["value"] for row in direct], rel=1e-9)
    assert all(row["low"] is not None for row in rows)  # 90 vectors of 24 features
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(24), sigma=np.eye(24))
    assert read_statistics(tmp_path / "theirs.npz").of("inception (fid, 9) adm")
    np.savez(tmp_path / "wide.npz", mu=np.zeros(30), sigma=np.eye(30))
    wide = Statistics("W", read_statistics(tmp_path / "wide.npz").of("inception"))
    with pytest.raises(UserError, match="are of 30 features, those of B of 24"):
        compare(wide, b, "inception")


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"mu": np.zeros(3)}, "only one of mu and sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"\[d\] and \[d, d\]"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "finite"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0.0, 1.0]])}, "not symmetric"),
    ],
)
def test_statistics_that_do_not_hold_together_are_refused(tmp_path, arrays, match):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(UserError, match=match):
        read_statistics(tmp_path / "s.npz")
    (tmp_path / "no.npz").write_bytes(b"no")
    with pytest.raises(UserError, match=r"cannot be read as \.npz"):
        read_statistics(tmp_path / "no.npz")
