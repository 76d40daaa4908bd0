"""Losses of a chain, of an interpolant and of EDM: what their options scale, and what they leave alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.processes.edm import Edm
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import Interpolant
from unified_jax.processes.paths import Vp
from unified_jax.processes.targets import diffuse, expand

X0, EPS = (jax.random.normal(key, (6, 4, 2)) for key in jax.random.split(jax.random.key(0)))
CHAIN = DiscreteGaussian("squared_cosine", 50)
STEPS = jnp.asarray([1, 8, 17, 26, 35, 44])


@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_has_its_own_gamma(gamma):
    """min(SNR, gamma) / SNR for a prediction of eps that is wrong by 1 (Hang et al. 2023)."""
    chain = dataclasses.replace(CHAIN, weighting="min_snr", snr_gamma=gamma)
    flow, t = Interpolant("eps", Vp(), loss="min_snr", snr_gamma=gamma, data_end=0.01), jnp.linspace(0.05, 0.5, 6)
    for process, times in ((chain, STEPS), (flow, t)):
        alpha, sigma = (np.asarray(v, np.float64) for v in process.alpha_sigma(times))
        snr = (alpha / sigma) ** 2
        found = process.losses(EPS + 1.0, X0, EPS, diffuse(process, X0, EPS, times), times)["mse"]
        assert (snr < gamma).any()
        assert (snr > gamma).any()
        np.testing.assert_allclose(found, np.minimum(snr, gamma) / snr, rtol=1e-4)


def test_a_learned_variance_and_its_objectives():
    """Rescaled: the bound times T / 1,000 beside the simple loss, times T alone; its gradient leaves the mean alone."""
    x_t = diffuse(CHAIN, X0, EPS, STEPS)
    output = jnp.concatenate([EPS + 0.3, 0.5 * jnp.tanh(X0)], axis=-1)

    def of(objective, output=output):
        process = dataclasses.replace(CHAIN, variance="learned_range", objective=objective)
        return process.losses(output, X0, EPS, x_t, STEPS)

    found = {objective: of(objective) for objective in ("mse", "rescaled_mse", "kl", "rescaled_kl")}
    assert [set(terms) for terms in found.values()] == [{"mse", "vb"}] * 2 + [{"vb"}] * 2
    np.testing.assert_allclose(found["mse"]["mse"], 0.09, rtol=1e-4)
    np.testing.assert_allclose(found["rescaled_mse"]["vb"], 0.05 * found["mse"]["vb"], rtol=1e-6)
    np.testing.assert_allclose(found["kl"]["vb"], found["mse"]["vb"], rtol=1e-6)
    np.testing.assert_allclose(found["rescaled_kl"]["vb"], 50 * found["kl"]["vb"], rtol=1e-6)
    hybrid, bound = (jax.grad(lambda o, kind=kind: of(kind, o)["vb"].sum())(output) for kind in ("mse", "kl"))
    assert not hybrid[..., :2].any()
    assert bound[..., :2].all()
    np.testing.assert_allclose(hybrid[..., 2:], bound[..., 2:], rtol=1e-5)


def test_what_a_network_is_shown():
    """Of EDM c_in x and log(sigma) / 4; of a shorter chain the long one's index."""
    levels = jnp.asarray([0.01, 0.5, 2.0, 10.0, 40.0, 80.0])
    np.testing.assert_allclose(Edm().network_time(levels), np.log(np.asarray(levels)) / 4, rtol=1e-5)
    shown = Edm(sigma_data=0.7).network_input(X0, levels)
    np.testing.assert_allclose(shown, X0 / expand(jnp.sqrt(levels**2 + 0.49), X0), rtol=1e-5)
    short, index = CHAIN.respaced((3, 20, 49)), jnp.arange(3)
    np.testing.assert_array_equal(short.network_time(index), [3, 20, 49])
    np.testing.assert_allclose(short.unit_time(index), [4 / 50, 21 / 50, 1.0], rtol=1e-6)
