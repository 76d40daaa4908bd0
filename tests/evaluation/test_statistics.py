"""Intervals and comparisons, against SciPy and against themselves on arms that are equal."""

import numpy as np
import pytest
from scipy import stats

from unified_jax.evaluation.statistics import claims, holm, paired_p, slope_interval, student_mean


@pytest.mark.parametrize("n", [2, 5, 9])
def test_means_and_paired_tests_are_those_of_scipy(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(1.0, 2.0, n).tolist(), rng.normal(0.0, 1.0, n).tolist()
    found = student_mean(a)
    low, high = stats.t.interval(0.95, n - 1, np.mean(a), stats.sem(a))
    np.testing.assert_allclose(found[:3], (np.mean(a), low, high), rtol=1e-12)
    differences = [x - y for x, y in zip(a, b, strict=True)]
    assert paired_p(differences) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-10)


def test_one_value_has_no_interval_and_equal_arms_no_p():
    assert student_mean([3.0])[:3] == (3.0, -np.inf, np.inf)
    assert paired_p([0.0] * 6) == 1.0
    assert paired_p([0.1]) == 1.0
    assert paired_p([0.5] * 6) == 0.0
    with pytest.raises(ValueError, match="at least one value"):
        student_mean([])


def test_holm():
    """Holm (1979), worked by hand: 4 x 0.01, 3 x 0.02, 2 x 0.03, and what would fall stays."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_nothing_is_claimed_below_five_seeds():
    assert not claims(1e-9, 4)
    assert claims(1e-9, 5)
    assert not claims(0.05, 5)


@pytest.mark.parametrize(("draw", "arms"), [("normal", 1), ("normal", 3), ("uniform", 3), ("rates", 3)])
def test_equal_arms_with_seeds_of_their_own_are_seldom_told_apart(draw, arms):
    """A/A: of 2,000 studies of equal arms with disjoint seeds at most 5 % claim any difference."""
    rng, n = np.random.default_rng(7), 5
    make = {
        "normal": lambda size: rng.normal(0.3, 0.05, size),
        "uniform": lambda size: rng.uniform(0, 1, size),
        "rates": lambda size: rng.binomial(128, 0.7, size) / 128,
    }[draw]
    base, others = make((2000, n)), make((2000, arms, n))
    false = 0
    for one, rest in zip(base, others, strict=True):
        false += any(claims(p, n) for p in holm([paired_p((arm - one).tolist()) for arm in rest]))
    assert false <= 100


def test_a_difference_of_three_deviations_is_mostly_found():
    rng = np.random.default_rng(3)
    found = [claims(paired_p(rng.normal(3.0, 1.0, 5).tolist()), 5) for _ in range(300)]
    assert np.mean(found) > 0.9


def test_slopes_are_those_of_scipy():
    rng = np.random.default_rng(0)
    x = np.log(np.geomspace(1e3, 1e6, 7))
    y = 2.0 - 0.34 * x + rng.normal(0, 0.05, 7)
    found, line = slope_interval(x.tolist(), y.tolist()), stats.linregress(x, y)
    half = stats.t.ppf(0.975, 5) * line.stderr
    np.testing.assert_allclose(found[:3], (line.slope, line.slope - half, line.slope + half), rtol=1e-9)
    with pytest.raises(ValueError, match="three points"):
        slope_interval([1.0, 2.0], [1.0, 2.0])
