import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.times import LogitNormalTimes, UniformTimes

KEYS = jax.random.split(jax.random.key(0), 20_000)


@pytest.mark.parametrize("times", [LogitNormalTimes(), LogitNormalTimes(0.8, 0.6)])
def test_logit_normal_draws_follow_its_density(times):
    drawn = np.asarray(times.draw(KEYS))
    edges = np.linspace(0, 1, 11)
    fine = np.linspace(1e-4, 1 - 1e-4, 20_001)
    density = np.asarray(times.density(jnp.asarray(fine, jnp.float32)))
    mass = [np.trapezoid(np.where((fine >= a) & (fine < b), density, 0), fine) for a, b in itertools.pairwise(edges)]
    np.testing.assert_allclose(np.histogram(drawn, edges)[0] / len(drawn), mass, atol=0.012)


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
