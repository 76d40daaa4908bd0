"""Options of samplers and guidance by their formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import gaussian_denoiser, keys_of
from unified_jax.processes.edm import Edm
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.targets import Prediction
from unified_jax.samplers.guidance import Guidance, classifier_free
from unified_jax.samplers.likelihood import log_likelihood
from unified_jax.samplers.loop import normal_like
from unified_jax.samplers.sde import diffusion

FLOW = RectifiedFlow()


def test_the_power_cosine_schedule():
    """1 + (s - 1) (1 - cos(pi (1 - u)^p)) / 2 (Gao et al. 2023, MDTv2)."""
    u = np.asarray([0.05, 0.3, 0.5, 0.8, 1.0])
    wanted = 1 + 3 * (1 - np.cos(np.pi * (1 - u) ** 2.5)) / 2
    np.testing.assert_allclose(Guidance(4.0, power=2.5).at(jnp.asarray(u)), wanted, rtol=1e-5)


def test_guided_channels_are_guided_in_x0_and_eps_alike():
    keys, t = keys_of(3), jnp.asarray([0.2, 0.5, 0.9])
    x_t, a, b = (normal_like(keys, step, jnp.zeros((3, 5, 4))) for step in range(3))

    def of(output):
        return lambda x, time: FLOW.predict(output, x, time)

    guided = classifier_free(of(a), of(b), FLOW, Guidance(3.0, channels=2))(x_t, t)
    shaped = t[:, None, None]
    velocity = jnp.concatenate([b + 3 * (a - b), a], axis=-1)[..., jnp.asarray([0, 1, 6, 7])]
    np.testing.assert_allclose(guided.x0, x_t - shaped * velocity, atol=1e-5)
    np.testing.assert_allclose(guided.eps, x_t + (1 - shaped) * velocity, atol=1e-5)
    assert isinstance(guided, Prediction)


@pytest.mark.parametrize("norm", [1.0, 0.4])
def test_diffusion_coefficients(norm):
    """The forms of SiT's table, in our direction of time, of the straight path."""
    t = np.asarray([0.1, 0.4, 0.8])
    wanted = {
        "constant": norm + 0 * t, "sigma": norm * t, "linear": norm * t, "sbdm": norm * t / (1 - t),
        "decreasing": (1 - norm * np.cos(np.pi * t)) ** 2 / 4, "increasing_decreasing": norm * np.sin(np.pi * t) ** 2,
    }  # fmt: skip
    for form, value in wanted.items():
        np.testing.assert_allclose(diffusion(FLOW, jnp.asarray(t), form, norm), value, rtol=1e-5, err_msg=form)


def test_a_likelihood_from_a_noise_end_of_another_size():
    """EDM ends in noise of deviation sigma_max, which belongs in the prior."""
    process, std = Edm(sigma_max=50.0), 0.7
    x = std * jnp.linspace(-2, 2, 6).reshape(3, 2)
    levels = np.concatenate([[0.0], np.geomspace(0.002, 50.0, 120)])
    found = log_likelihood(gaussian_denoiser(process, 0.0, std), process, x, levels, noise_std=50.0).log_density
    exact = -0.5 * ((x / std) ** 2).sum(1) - 2 * (np.log(std) + 0.5 * np.log(2 * np.pi))
    np.testing.assert_allclose(found, exact, atol=0.02)
