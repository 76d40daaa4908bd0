"""The whole variational bound against entropies that are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from unified_jax.data.world.finite import finite_images, posterior_mean
from unified_jax.processes.bound import variational_bound
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.targets import Prediction, expand


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_bits_per_dim_of_a_quantised_gaussian():
    """8-bit data from N(0, 0.25^2): with the exact reverse step (its mean and its variance) the bound is the entropy.

    The reverse step of Gaussian data is Gaussian: mean as the posterior's with E[x0 | x_t] for x0, variance beta~ +
    c0^2 Var[x0 | x_t]. The first step is wider than a bin: a noise that told the bin would cost bits of its own, since
    the denoiser does not know that the data are rounded.
    """
    std = 0.25
    edges = (np.arange(257) - 128) / 127.5
    edges[0], edges[-1] = -np.inf, np.inf
    mass = np.diff(norm.cdf(edges / std))
    entropy = -np.sum(mass[mass > 0] * np.log2(mass[mass > 0]))
    process = DiscreteGaussian("linear", 60, beta_start=2e-3, beta_end=0.2, rescale_betas=False)
    abar = process.alphas_cumprod
    before = np.concatenate([[1.0], abar[:-1]])
    spread = std**2 * (1 - abar) / (abar * std**2 + 1 - abar)
    variance = process.posterior_variance + (np.sqrt(before) * process.betas / (1 - abar)) ** 2 * spread
    table = jnp.asarray(np.log(variance), jnp.float32)

    def denoise(x_t, t):
        alpha, sigma = (expand(v, x_t) for v in process.alpha_sigma(t))
        x0 = alpha * std**2 / (alpha**2 * std**2 + sigma**2) * x_t
        log_variance = jnp.broadcast_to(expand(table[t], x_t), x_t.shape)
        return Prediction(x0, (x_t - alpha * x0) / sigma, log_variance)

    levels = np.random.default_rng(0).choice(256, size=(400, 64), p=mass)
    x0 = jnp.asarray(levels / 127.5 - 1, jnp.float32)
    total = np.asarray(jax.jit(lambda x: variational_bound(denoise, process, x, keys_of(400)).total)(x0))
    assert abs(total.mean() - entropy) < 4 * total.std() / np.sqrt(400) + 0.01, (total.mean(), entropy)


def test_bits_per_dim_of_the_finite_world():
    """The Bayes denoiser's bound is log2 of the number of scenes, up to the width of the steps.

    With n equally likely pictures the entropy is log2(n) bits a picture. In the limit of many steps the bound is the
    integral of the minimal mean squared error over the signal-to-noise ratio (Guo, Shamai & Verdu 2005); a chain of
    1,200 steps is a Riemann sum of it from above, about 1.5 % too large. Every fourth scene, and every second pixel
    of it, still tell all scenes apart.
    """
    scenes = jnp.asarray(finite_images(16)[::4, ::2, ::2])
    assert len(np.unique(scenes, axis=0)) == len(scenes) > 250
    count = 24
    process = DiscreteGaussian("linear", 1200, beta_start=1e-7, beta_end=0.03, rescale_betas=False)

    def denoise(x_t, t):
        alpha, sigma = process.alpha_sigma(t)
        x0 = posterior_mean(x_t, alpha, sigma, scenes)
        return Prediction(x0, (x_t - expand(alpha, x_t) * x0) / expand(sigma, x_t))

    pick = np.random.default_rng(1).choice(len(scenes), count)
    bound = jax.jit(lambda x: variational_bound(denoise, process, x, keys_of(count)))(scenes[pick])
    bits = np.asarray(bound.total) * scenes[0].size
    entropy = np.log2(len(scenes))
    error = bits.std() / np.sqrt(count)
    assert float(jnp.abs(bound.terms[:, 0]).max()) * scenes[0].size < 1e-2  # the last step knows the picture
    assert entropy - 4 * error < bits.mean() < 1.04 * entropy + 4 * error, (bits.mean(), error, entropy)
    assert error < 0.05 * entropy


def test_terms_add_up():
    process = DiscreteGaussian("squared_cosine", 20)
    x0 = jnp.zeros((3, 2, 2, 1))
    bound = variational_bound(lambda x, t: Prediction(0 * x, x), process, x0, keys_of(3))
    assert bound.terms.shape == (3, 20)
    np.testing.assert_allclose(bound.total, bound.prior + bound.terms.sum(1))
