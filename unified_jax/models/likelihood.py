"""Bits per dimension of 8-bit examples under a denoiser.

A discrete process is scored by its variational bound with the discretised decoder (`processes.bound`); a process in
continuous time by the likelihood of its probability-flow ODE on data dequantised with uniform noise
(`samplers.likelihood`). Both are upper bounds of the negative log2-probability of the data, hence comparable.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.processes.bound import variational_bound
from unified_jax.processes.chain import Chain
from unified_jax.processes.targets import expand
from unified_jax.samplers.likelihood import log_likelihood, rademacher
from unified_jax.samplers.loop import Denoiser
from unified_jax.typing import Keys

LEAST_TIME = 1e-3
"""Start of the ODE: the slope may be singular at the data itself."""


def bits_per_dim(denoise: Denoiser, process: Any, x0: Array, keys: Keys, steps: int) -> Float[Array, "b"]:
    """One number per example in [-1, 1]. `steps` are those of the ODE (Heun); a discrete process uses every step."""
    if isinstance(process, Chain):
        return variational_bound(denoise, process, x0, keys).total
    spread = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), x0.shape[1:], minval=-1.0))(keys)
    probe = rademacher(keys, x0)
    data = x0 + spread / 255.0
    if hasattr(process, "sigma_min"):  # noise levels: alpha = 1, and the noise is not of unit size
        low, high = process.sigma_min, process.sigma_max
        grid = np.concatenate([[low], np.geomspace(low, high, steps)[1:]])
        return log_likelihood(denoise, process, data, grid, probe, noise_std=high).bits_per_dim(127.5)
    start = max(getattr(process, "data_end", 0.0), LEAST_TIME)
    end = min(getattr(process, "noise_end", 1.0), 1.0 - LEAST_TIME)
    alpha, _ = process.alpha_sigma(jnp.full(len(data), start))
    # The data stand in for x at t = start, which is alpha x0: the scale enters the density.
    found = log_likelihood(denoise, process, expand(alpha, data) * data, np.linspace(start, end, steps + 1), probe)
    return found.bits_per_dim(127.5) - jnp.log2(alpha)
