"""Guidance schedules, rescaling and thresholding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.targets import Prediction
from unified_jax.samplers.guidance import Guidance, classifier_free, threshold
from unified_jax.samplers.loop import slerp

FLOW = RectifiedFlow()


def test_intervals_and_the_power_cosine():
    u = jnp.asarray([0.0, 0.2, 0.5, 0.8, 1.0])
    np.testing.assert_array_equal(Guidance(3.0, low=0.2, high=0.8).at(u), [1, 1, 3, 3, 1])
    rising = np.asarray(Guidance(4.0, power=4.0).at(jnp.linspace(0.001, 1.0, 20)))
    assert (np.diff(rising) <= 0).all()  # it grows as noise falls
    assert rising[-1] == pytest.approx(1.0)
    assert rising[0] == pytest.approx(4.0, abs=1e-3)


def test_rescaling_restores_the_deviation():
    keys = jax.random.split(jax.random.key(0), 3)
    x0, other, x_t = (jax.random.normal(k, (3, 8, 8, 3)) for k in keys)
    t = jnp.asarray([0.3, 0.5, 0.9])

    def of(value):
        return lambda x, time: FLOW.predict((x - value) / time[:, None, None, None], x, time)

    full = classifier_free(of(x0), of(other), FLOW, Guidance(4.0, rescale=1.0))(x_t, t)
    np.testing.assert_allclose(full.x0.std((1, 2, 3)), x0.std((1, 2, 3)), rtol=1e-3)
    tt = t[:, None, None, None]
    np.testing.assert_allclose((1 - tt) * full.x0 + tt * full.eps, x_t, atol=1e-4)
    plain = classifier_free(of(x0), of(other), FLOW, Guidance(4.0))(x_t, t)
    half = classifier_free(of(x0), of(other), FLOW, Guidance(4.0, rescale=0.5))(x_t, t)
    np.testing.assert_allclose(half.x0, 0.5 * (full.x0 + plain.x0), atol=1e-4)


def test_dynamic_thresholding():
    x0 = jnp.concatenate([jnp.linspace(-0.5, 0.5, 100), jnp.linspace(-4, 4, 100)]).reshape(2, 100)
    found = threshold(x0, 0.9, limit=10.0)
    np.testing.assert_array_equal(found[0], x0[0])
    assert float(jnp.abs(found[1]).max()) == pytest.approx(1.0)
    np.testing.assert_allclose(threshold(x0, 0.9, 1.0), jnp.clip(x0, -1, 1))


@pytest.mark.parametrize("values", [{"scale": -1.0}, {"low": 0.5, "high": 0.2}, {"rescale": 2.0}])
def test_bad_guidance_is_refused(values):
    with pytest.raises(ValueError, match="Guidance needs"):
        Guidance(**values)


def test_slerp_keeps_the_norm_of_noise():
    a, b = (jax.random.normal(k, (2, 3000)) for k in jax.random.split(jax.random.key(0)))
    for share in (0.0, 0.3, 0.5, 1.0):
        between = slerp(a, b, share)
        np.testing.assert_allclose(jnp.linalg.norm(between, axis=1), np.sqrt(3000), rtol=0.05)
    np.testing.assert_allclose(slerp(a, b, 0.0), a, atol=1e-5)
    np.testing.assert_allclose(slerp(a, a, 0.4), a, atol=1e-5)


def test_a_prediction_is_a_tree():
    assert len(jax.tree.leaves(Prediction(jnp.zeros(1), jnp.zeros(1)))) == 2
