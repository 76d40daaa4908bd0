"""A watched sampler draws the same samples and tells its progress."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.targets import Prediction
from unified_jax.samplers.choice import Dopri5, Heun
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.samplers.watched import watched


@functools.partial(jax.jit, static_argnums=0)
def sampled(plan, x):
    process, grid = plan.prepare(RectifiedFlow())

    def denoise(x, t):
        x0 = 0.3 * jnp.tanh(x) + 0.1 * t[:, None]
        return Prediction(x0, (x - (1 - t[:, None]) * x0) / jnp.maximum(t[:, None], 1e-3))

    return plan.run(denoise, process, x, grid, jax.random.split(jax.random.key(0), len(x)))


@pytest.mark.parametrize("sampler", [Heun(), Dopri5()])
def test_the_samples_are_the_samplers_and_progress_comes_in_order(sampler):
    told = []
    x = jax.random.normal(jax.random.key(1), (3, 5))
    plan = SamplingPlan(sampler, steps=4)
    plain, seen = sampled(plan, x), sampled(watched(plan, told.append), x)
    jax.effects_barrier()
    np.testing.assert_allclose(plain, seen, rtol=1e-5, atol=1e-6)
    assert told[0] == 0 and 0.4 < max(told) <= 1
    if isinstance(sampler, Heun):  # both evaluations of a step, one at the last
        assert told == pytest.approx([0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75], abs=1e-6)
