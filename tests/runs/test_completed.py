"""Labels that a request leaves out: drawn uniformly, each sample by itself, and never in the place of a given one."""

import numpy as np

import unified_jax as uj
from unified_jax.runs.completed import completed

MODEL = uj.Diffusion(
    uj.DiT(depth=1, width=16, heads=2),
    uj.RectifiedFlow(),
    uj.Image(8, 8, 3, patch=4),
    conditions=(uj.Label("shape", 6), uj.Label("colour", 8)),
)


def test_missing_labels_are_uniform_and_given_ones_stay() -> None:
    """6,000 draws of six classes: chi-squared under its 99.9th percentile; null is missing."""
    shape = np.arange(6000, dtype=np.int32) % 6
    rows = completed(MODEL, {"colour": shape, "shape": np.full(6000, 6, np.int32)}, 6000, 0, seed=3)
    counts = np.bincount(rows["shape"], minlength=6)
    assert counts.shape == (6,) and ((counts - 1000) ** 2 / 1000).sum() < 20.5
    assert np.array_equal(rows["colour"], shape)
    joint = np.histogram2d(rows["shape"][1:], rows["shape"][:-1], bins=6)[0] / 5999
    assert np.abs(joint - 1 / 36).max() < 0.01, "neighbours depend on one another"


def test_a_sample_depends_on_its_index_and_the_seed_alone() -> None:
    """Samples 5 to 8 of 16 are those drawn by themselves; another seed and another label draw other classes."""
    whole = completed(MODEL, {}, 64, 0, seed=1)
    part = completed(MODEL, {}, 4, 5, seed=1)
    assert all(np.array_equal(part[name], whole[name][5:9]) for name in ("shape", "colour"))
    assert not np.array_equal(whole["shape"], completed(MODEL, {}, 64, 0, seed=2)["shape"])
    assert not np.array_equal(whole["shape"], whole["colour"] % 6)
