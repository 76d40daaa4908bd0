"""Noise in samplers: whose it is, and algorithm 2 of Karras et al. 2022 written out in NumPy."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import gaussian_denoiser, keys_of
from unified_jax.processes.edm import Edm
from unified_jax.samplers.karras import Churn, karras
from unified_jax.samplers.loop import START, normal_like

MEAN, STD = 0.5, 0.7


def test_every_modality_has_noise_of_its_own():
    keys, blank = keys_of(64), jnp.zeros((64, 50))
    both = normal_like(keys, 2, {"a": blank, "b": blank})
    a, b = (np.ravel(both[name]) for name in ("a", "b"))
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(a.size)
    np.testing.assert_array_equal(normal_like(keys, 2, {"b": blank})["b"], both["b"])
    for other in (normal_like(keys, START, blank), normal_like(keys, 0, blank)):
        assert abs(np.corrcoef(np.ravel(other), a)[0, 1]) < 4 / np.sqrt(a.size)


def by_hand(x, levels, churn, order, noise):
    """Algorithm 2 with the optimal denoiser of N(MEAN, STD^2), float64; noise(i) is draw i."""

    def slope(x, sigma):
        return (x - (MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN))) / sigma

    steps = len(levels) - 1
    for i, (sigma, following) in enumerate(itertools.pairwise(levels)):
        inside = churn.low <= sigma <= churn.high
        gamma = min(churn.churn / steps, np.sqrt(2) - 1) if inside else 0.0
        higher = sigma * (1 + gamma)
        x = x + churn.noise * np.sqrt(higher**2 - sigma**2) * noise(i)
        first = slope(x, higher)
        euler = x + (following - higher) * first
        if order == 2 and following > 0:
            euler = x + (following - higher) * 0.5 * (first + slope(euler, following))
        x = euler
    return x


@pytest.mark.parametrize(
    ("churn", "order"), [(Churn(1000.0), 1), (Churn(2.0, 0.1, 5.0, 1.1), 2)], ids=["more than the cap", "within bounds"]
)
def test_churn_is_algorithm_2(churn, order):
    keys, levels = keys_of(5), np.asarray([20.0, 6.0, 5.0, 1.0, 0.1, 0.02, 0.0])
    x = 20 * normal_like(keys, START, jnp.zeros((5, 3)))
    found = karras(gaussian_denoiser(Edm(), MEAN, STD), Edm(), x, levels, keys, churn, order)
    noise = lambda i: np.asarray(normal_like(keys, i, x), np.float64)  # noqa: E731
    np.testing.assert_allclose(found, by_hand(np.asarray(x, np.float64), levels, churn, order, noise), atol=2e-5)
