import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import Interpolant, RectifiedFlow
from unified_jax.processes.times import (
    CosMapTimes,
    LogitNormalTimes,
    LogNormalLevels,
    ModeTimes,
    UniformTimes,
    dynamic_shift,
    resolution_shift,
)

KEYS = jax.random.split(jax.random.key(0), 20_000)


@pytest.mark.parametrize("times", [LogitNormalTimes(), LogitNormalTimes(0.8, 0.6)])
def test_logit_normal_draws_follow_its_density(times):
    drawn = np.asarray(times.draw(KEYS))
    edges = np.linspace(0, 1, 11)
    fine = np.linspace(1e-4, 1 - 1e-4, 20_001)
    density = np.asarray(times.density(jnp.asarray(fine, jnp.float32)))
    mass = [np.trapezoid(np.where((fine >= a) & (fine < b), density, 0), fine) for a, b in itertools.pairwise(edges)]
    np.testing.assert_allclose(np.histogram(drawn, edges)[0] / len(drawn), mass, atol=0.012)


@pytest.mark.parametrize("times", [UniformTimes, LogitNormalTimes, ModeTimes, CosMapTimes])
def test_every_density_is_shifted(times):
    """t' = s t / (1 + (s - 1) t), Esser et al. 2024, section 5.3.2."""
    plain = np.asarray(times().draw(KEYS[:500]), np.float64)
    np.testing.assert_allclose(times(shift=3.0).draw(KEYS[:500]), 3 * plain / (1 + 2 * plain), rtol=1e-5)


def test_a_shifted_logit_normal_is_one_with_another_mean():
    shifted, moved = LogitNormalTimes(0.3, 0.8, shift=3.0), LogitNormalTimes(0.3 + np.log(3.0), 0.8)
    np.testing.assert_allclose(shifted.draw(KEYS[:500]), moved.draw(KEYS[:500]), rtol=1e-5)
    t = jnp.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(shifted.density(t), moved.density(t), rtol=1e-4)


def test_mode_and_cosmap_are_the_published_quantiles():
    """Of u by the paper's own formulas, in NumPy; the draws of u are those of the uniform density."""
    u = np.asarray(UniformTimes().draw(KEYS[:500]), np.float64)
    mode = 1 - u - 1.29 * (np.cos(np.pi * u / 2) ** 2 - 1 + u)
    np.testing.assert_allclose(ModeTimes(1.29).draw(KEYS[:500]), mode, atol=2e-6)
    np.testing.assert_allclose(CosMapTimes().draw(KEYS[:500]), 1 - 1 / (np.tan(np.pi * u / 2) + 1), atol=2e-6)
    drawn, t = np.asarray(CosMapTimes().draw(KEYS)), np.linspace(0, 1, 2001)
    mass = np.trapezoid(np.asarray(CosMapTimes().density(jnp.asarray(t[:501]))), t[:501])
    assert (drawn < 0.25).mean() == pytest.approx(mass, abs=0.012)


def test_levels_are_lognormal():
    logs = np.log(np.asarray(LogNormalLevels(-0.7, 0.4).draw(KEYS)))
    assert (logs.mean(), logs.std()) == pytest.approx((-0.7, 0.4), abs=0.012)


def test_shifts_for_sizes():
    assert resolution_shift(64, 16) == 2.0
    assert [np.log(dynamic_shift(n)) for n in (256, 2176, 4096)] == pytest.approx([0.5, 0.825, 1.15])


def test_training_times_fill_their_interval():
    drawn = np.asarray(Interpolant(data_end=0.3, noise_end=0.6).draw_times(KEYS))
    assert drawn.min() >= 0.3
    assert drawn.max() <= 0.6
    np.testing.assert_allclose(np.histogram(drawn, 10, (0.3, 0.6))[0] / len(drawn), 0.1, atol=0.01)


def test_uniform_draws():
    drawn = np.asarray(UniformTimes().draw(KEYS))
    np.testing.assert_allclose(np.histogram(drawn, 10, (0, 1))[0] / len(drawn), 0.1, atol=0.01)


def test_discrete_draws_cover_the_chain():
    drawn = np.asarray(DiscreteGaussian(steps=10, schedule="squared_cosine").draw_times(KEYS))
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), 0.1, atol=0.01)


def test_a_draw_depends_on_its_key_alone():
    drawn = RectifiedFlow().draw_times(KEYS[:64])
    np.testing.assert_array_equal(drawn[10:20], RectifiedFlow().draw_times(KEYS[10:20]))


def test_a_bad_width_is_refused():
    with pytest.raises(ValueError, match="positive"):
        LogitNormalTimes(std=0.0)
