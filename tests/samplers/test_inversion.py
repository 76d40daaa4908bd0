"""DDIM's inversion: from data to noise and back, or refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import gaussian_denoiser, keys_of
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.grids import discrete_grid, uniform_grid
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.targets import Prediction
from unified_jax.samplers.ddim import ddim

MEAN, STD = 0.5, 0.7
X = jnp.linspace(-2, 3, 9)[:, None]


@pytest.mark.parametrize("first", [0.0, 0.02])
def test_the_noise_of_gaussian_data_is_known(first):
    """The flow's map is affine and keeps order: x = mean + std z comes from the noise z."""
    flow, grid = RectifiedFlow(), uniform_grid(400, end=first)[::-1]

    def denoise(x_t, t):  # of the velocity, which is known at the data too
        alpha, sigma = (v[:, None] for v in flow.alpha_sigma(t))
        variance = alpha**2 * STD**2 + sigma**2
        residual = x_t - alpha * MEAN
        return Prediction(MEAN + alpha * STD**2 / variance * residual, sigma / variance * residual)

    start = X if first == 0 else (1 - first) * MEAN + np.hypot((1 - first) * STD, first) * (X - MEAN) / STD
    noise = ddim(denoise, flow, start, grid, keys_of(9))
    np.testing.assert_allclose(noise, (X - MEAN) / STD, atol=0.02)
    back = ddim(denoise, flow, noise, grid[::-1], keys_of(9))
    np.testing.assert_allclose(back, start, atol=0.02)


def test_a_chain_is_inverted_from_its_data():
    """Index -1, the data, shows the network its first step."""
    chain = DiscreteGaussian("squared_cosine", 1000)
    assert float(chain.network_time(jnp.asarray(-1))) == float(chain.network_time(jnp.asarray(0))) == 0.0
    denoise = gaussian_denoiser(chain, MEAN, STD)
    latent = ddim(denoise, chain, X, discrete_grid(1000)[::-1], keys_of(9))
    np.testing.assert_allclose(latent, (X - MEAN) / STD, atol=0.03)


@pytest.mark.parametrize(
    ("process", "grid", "eta", "words"),
    [
        (RectifiedFlow("x0"), uniform_grid(5)[::-1], 0.0, "says nothing about eps where sigma = 0"),
        (DiscreteGaussian(target="x0"), discrete_grid(9)[::-1], 0.0, "says nothing about eps"),
        (RectifiedFlow(), uniform_grid(5)[::-1], 1.0, "needs eta = 0, found 1"),
    ],
)
def test_what_cannot_be_inverted_is_refused(process, grid, eta, words):
    with pytest.raises(ValueError, match=words):
        ddim(lambda x, t: Prediction(x, x), process, X, grid, keys_of(9), eta)
