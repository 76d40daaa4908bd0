r"""The variational bound of discrete Gaussian diffusion, in bits per dimension.

DDPM (Ho et al. 2020), section 3; Sohl-Dickstein et al. 2015, appendix:

    L = L_T + sum_{t>0} L_{t} + L_0,    L_t = KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)),    L_0 = -log p(x0 | x_1)

L_0 is the discretised decoder: data are 0 .. 255 on the [-1, 1] scale, each bin extends 1/255 to either side, and the
two edge bins extend to infinity (DDPM, eq. 13). The normal CDF is the tanh approximation that the reference uses,
so that the numbers agree with published ones: Phi(z) ~ (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) / 2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.processes.chain import Chain
from unified_jax.processes.targets import Prediction, diffuse, mean_per_example
from unified_jax.typing import Keys


class Bound(NamedTuple):
    """The terms of L = L_T + sum_t L_t, bits/dim."""

    prior: Float[Array, "b"]
    """L_T."""
    terms: Float[Array, "b t"]
    """L_0 (the decoder) first, then L_1, ..., L_{T-1} in the indexing of `DiscreteGaussian`."""

    @property
    def total(self) -> Float[Array, "b"]:
        """The bound of each example."""
        return self.prior + self.terms.sum(axis=1)


def normal_kl(mean1: Array, log_variance1: Array, mean2: Array, log_variance2: Array) -> Array:
    """KL(N1 || N2) of diagonal Gaussians, elementwise, in nats."""
    ratio = jnp.exp(log_variance1 - log_variance2)
    return 0.5 * (-1.0 + log_variance2 - log_variance1 + ratio + (mean1 - mean2) ** 2 * jnp.exp(-log_variance2))


def discretized_log_likelihood(x: Array, mean: Array, log_scale: Array) -> Array:
    """log of the mass a Gaussian puts on the bin of x (8-bit data on [-1, 1]), elementwise, in nats."""
    inverse = jnp.exp(-log_scale)
    upper = _normal_cdf((x - mean + 1.0 / 255.0) * inverse)
    lower = _normal_cdf((x - mean - 1.0 / 255.0) * inverse)
    tiny = 1e-12
    log_upper, log_tail = jnp.log(jnp.maximum(upper, tiny)), jnp.log(jnp.maximum(1.0 - lower, tiny))
    log_bin = jnp.log(jnp.maximum(upper - lower, tiny))
    return jnp.where(x < -0.999, log_upper, jnp.where(x > 0.999, log_tail, log_bin))


def bound_term(process: Chain, prediction: Prediction, x0: Array, x_t: Array, t: Array) -> Float[Array, "b"]:
    """One term of the bound per example, bits/dim: the KL for t > 0, the decoder's negative log-likelihood at t = 0."""
    true_mean, true_log_variance = process.posterior(x0, x_t, t)
    mean, log_variance = process.reverse(prediction, x_t, t)
    kl = mean_per_example(normal_kl(true_mean, true_log_variance, mean, log_variance))
    decoder = mean_per_example(-discretized_log_likelihood(x0, mean, 0.5 * log_variance))
    return jnp.where(t == 0, decoder, kl) / np.log(2.0)


def prior_term(process: Chain, x0: Array) -> Float[Array, "b"]:
    """L_T, bits/dim: KL between q(x_T | x0) and N(0, I)."""
    abar = process.alphas_cumprod[-1]
    log_variance = jnp.full_like(x0, np.log(max(1.0 - abar, 1e-300)))
    kl = normal_kl(np.sqrt(abar) * x0, log_variance, jnp.zeros_like(x0), jnp.zeros_like(x0))
    return mean_per_example(kl) / np.log(2.0)


def variational_bound(
    denoise: Callable[[Array, Array], Prediction], process: Chain, x0: Float[Array, "b *s"], keys: Keys
) -> Bound:
    """Every term of the bound for each example, one sample of noise per term, from one key per example.

    It visits every step: len(process) denoiser calls. `Bound.total` is unbiased for the bound in bits/dim.
    """

    def term(_: None, t: Array) -> tuple[None, Array]:
        times = jnp.full(x0.shape[:1], t)
        draw = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, t), x0.shape[1:], x0.dtype))
        x_t = diffuse(process, x0, draw(keys), times)
        return None, bound_term(process, denoise(x_t, times), x0, x_t, times)

    terms = jax.lax.scan(term, None, jnp.arange(len(process)))[1]
    return Bound(prior_term(process, x0), terms.T)


def _normal_cdf(z: Array) -> Array:
    return 0.5 * (1.0 + jnp.tanh(np.sqrt(2.0 / np.pi) * (z + 0.044715 * z**3)))
