"""Loss weights against the papers' closed forms in float64, over whole chains and paths."""

import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import Interpolant
from unified_jax.processes.paths import Gvp, Linear, Vp
from unified_jax.processes.targets import rates
from unified_jax.processes.weights import loss_weight

CHAINS = [
    DiscreteGaussian(),
    DiscreteGaussian("scaled_linear", beta_start=0.00085, beta_end=0.012),
    DiscreteGaussian("squared_cosine"),
]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.schedule)
@pytest.mark.parametrize(
    ("target", "of_x0"),
    [("eps", lambda snr: 1 / snr), ("x0", np.ones_like), ("v", lambda snr: 1 / (snr + 1))],
)
def test_min_snr_is_the_papers_at_every_step(chain, target, of_x0):
    """Hang et al. 2023: min(SNR, g) of x0's square, / SNR of eps's, / (SNR + 1) of v's."""
    t, abar = jnp.arange(1000), chain.alphas_cumprod
    pair = DiscreteGaussian(target=target, table=tuple(chain.betas), rescale_betas=False).target_coefficients(t)
    path = chain.alpha_sigma(t)
    snr = abar / (1 - abar)
    for gamma in (1.0, 5.0, 1000.0):
        found = loss_weight("min_snr", *path, *pair, path, gamma)
        np.testing.assert_allclose(found, np.minimum(snr, gamma) * of_x0(snr), rtol=2e-4)
    eps = loss_weight("eps", *path, *pair, path)  # the mean square of the implied eps
    np.testing.assert_allclose(eps, np.minimum(snr * of_x0(snr), 400), rtol=2e-4)
    most = loss_weight("max_snr", *path, *pair, path)
    np.testing.assert_allclose(most, np.minimum(np.maximum(snr, 1) * of_x0(snr), 400), rtol=2e-4)


@pytest.mark.parametrize("path", [Linear(), Gvp(), Vp()], ids=lambda path: type(path).__name__)
def test_weights_of_interpolants_are_exact_where_they_are_bounded(path):
    t = jnp.asarray(np.linspace(0.001, 0.999, 999), jnp.float32)
    for target in ("velocity", "x0", "v", "eps"):
        process = Interpolant(target, path, noise_end=0.999, data_end=0.001)
        pair, slopes = process.target_coefficients(t), rates(process, t)
        alpha, sigma, p, q, da, ds = (np.asarray(v, np.float64) for v in (*process.alpha_sigma(t), *pair, *slopes))
        determinant = alpha * q - sigma * p
        snr = (alpha / sigma) ** 2
        for kind, exact in {
            "eps": (alpha / determinant) ** 2,
            "velocity": ((alpha * ds - sigma * da) / determinant) ** 2,
            "min_snr": np.minimum(snr, 5) * (sigma / determinant) ** 2,
        }.items():
            found = loss_weight(kind, *process.alpha_sigma(t), *pair, slopes)
            np.testing.assert_allclose(found, np.minimum(exact, 400), rtol=1e-3, err_msg=f"{target} {kind}")


def test_limits_at_the_ends():
    zero, one = jnp.zeros(1), jnp.ones(1)
    rate = (-one, one)
    at_data = {"alpha": one, "sigma": zero, "p": one, "q": zero, "rates": rate}  # target x0 at the data
    assert float(loss_weight("min_snr", **at_data)[0]) == 5.0
    assert float(loss_weight("eps", **at_data)[0]) == 400.0
    v_at_noise = {"alpha": zero, "sigma": one, "p": -one, "q": zero, "rates": rate}
    assert float(loss_weight("min_snr", **v_at_noise)[0]) == 1.0  # a chain of zero terminal SNR trains its last step
    assert float(loss_weight("max_snr", **v_at_noise)[0]) == 1.0
