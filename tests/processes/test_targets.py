"""Round trips over the product process x target, the limits, and the velocity as a derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.processes.edm import Edm
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.targets import Process, diffuse, expand, shown_clean, velocity

PROCESSES = [
    *(
        DiscreteGaussian(s, 100, target=t)
        for s in ("linear", "squared_cosine", "scaled_linear")
        for t in ("eps", "x0", "v")
    ),
    *(DiscreteGaussian("linear", 100, target=t, zero_snr=True) for t in ("x0", "v")),
    *(RectifiedFlow(target=t) for t in ("velocity", "v", "x0")),
]


def name(process):
    return f"{type(process).__name__}-{getattr(process, 'schedule', '')}-{process.target}"


def data(process, batch=16):
    keys = jax.random.split(jax.random.key(0), 2)
    x0, eps = (jax.random.normal(key, (batch, 4, 4, 3)) for key in keys)
    if isinstance(process, DiscreteGaussian):
        return x0, eps, jnp.linspace(0, len(process) - 1, batch).astype(jnp.int32)
    return x0, eps, jnp.linspace(0.02, 1.0, batch)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_a_perfect_prediction_gives_back_data_and_noise(process):
    x0, eps, t = data(process)
    x_t = diffuse(process, x0, eps, t)
    p, q = (expand(v, x0) for v in process.target_coefficients(t))
    prediction = process.predict(p * x0 + q * eps, x_t, t)
    alpha, sigma = (np.asarray(v) for v in process.alpha_sigma(t))
    # An error of one float32 ulp in x_t grows by 1 / alpha in x0 (target eps) and by 1 / sigma in eps (target x0).
    growth_x0 = 1 / alpha if process.target == "eps" else np.ones_like(alpha)
    growth_eps = 1 / np.maximum(sigma, 1e-3) if process.target == "x0" else np.ones_like(alpha)
    error_x0 = np.abs(prediction.x0 - x0).max((1, 2, 3))
    error_eps = np.abs(prediction.eps - eps).max((1, 2, 3))
    assert (error_x0 < 3e-6 * growth_x0).all()
    assert (error_eps < 3e-6 * growth_eps).all()


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_processes_keep_to_the_protocol(process):
    assert isinstance(process, Process)
    assert hash(process) == hash(type(process)(**{k: getattr(process, k) for k in process.__dataclass_fields__}))


def test_x0_at_the_data_takes_its_limit():
    process = RectifiedFlow(target="x0")
    x = jnp.ones((2, 2, 2, 1))
    prediction = process.predict(x * 0.5, x, jnp.zeros(2))
    np.testing.assert_array_equal(prediction.x0, x)
    np.testing.assert_array_equal(prediction.eps, 0 * x)


def test_targets_that_cannot_be_inverted_are_refused_by_name():
    with pytest.raises(ValueError, match="'eps' says nothing about x0"):
        RectifiedFlow(target="eps")
    with pytest.raises(ValueError, match="alpha = 0"):
        DiscreteGaussian(zero_snr=True, target="eps")
    for process in ({"schedule": "jsd", "steps": 50}, {"table": (0.1, 0.5, 1.0), "steps": 3}):
        with pytest.raises(ValueError, match="alpha = 0"):
            DiscreteGaussian(target="eps", **process)
        assert DiscreteGaussian(target="v", **process).alphas_cumprod[-1] == 0
    with pytest.raises(ValueError, match="needs at least two steps"):
        DiscreteGaussian(steps=1, zero_snr=True, target="v")
    with pytest.raises(ValueError, match="continuous time"):
        DiscreteGaussian(target="velocity")


def test_velocity_is_the_derivative_of_the_path():
    process = RectifiedFlow()
    x0, eps, t = data(process)
    t = t * 0.9
    prediction = process.predict(eps - x0, diffuse(process, x0, eps, t), t)
    step = 1e-2
    numeric = (diffuse(process, x0, eps, t + step) - diffuse(process, x0, eps, t)) / step
    np.testing.assert_allclose(velocity(process, prediction, t), numeric, atol=2e-4)
    with pytest.raises(TypeError, match="integer times"):
        velocity(DiscreteGaussian(), prediction, jnp.zeros(16, jnp.int32))


def test_one_time_a_token():
    process = RectifiedFlow()
    x0, eps = jnp.ones((2, 5, 3)), jnp.zeros((2, 5, 3))
    t = jnp.linspace(0, 1, 10).reshape(2, 5)
    np.testing.assert_allclose(diffuse(process, x0, eps, t)[..., 0], 1 - t, rtol=1e-6)


def test_the_velocity_loss_is_the_error_of_the_implied_velocity():
    x0, eps, t = data(RectifiedFlow())
    t = jnp.clip(t, 0.1, 1.0)
    x_t = diffuse(RectifiedFlow(), x0, eps, t)
    guess = x0 + 0.1 * eps
    weighted = RectifiedFlow(target="x0", loss="velocity")
    implied = velocity(weighted, weighted.predict(guess, x_t, t), t)
    direct = RectifiedFlow().losses(implied, x0, eps, x_t, t)["mse"]
    np.testing.assert_allclose(weighted.losses(guess, x0, eps, x_t, t)["mse"], direct, rtol=2e-4)


def test_edm_shows_clean_data_as_its_limit_and_not_as_noise_of_level_one():
    """Its time of data, log(0) / 4, is not finite; 0 is that of sigma = 1."""
    edm, x0 = Edm(sigma_data=0.3), jnp.asarray([[0.6, -0.9]])
    seen, at = shown_clean(edm, x0)
    np.testing.assert_allclose(seen, edm.network_input(x0, jnp.asarray([1e-6])), rtol=1e-5)
    assert at < float(edm.network_time(jnp.asarray(edm.sigma_min))) < float(edm.network_time(jnp.asarray(1.0))) == 0.0
    assert shown_clean(RectifiedFlow(), x0)[1] == 0.0
