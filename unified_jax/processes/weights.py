r"""Loss weights: factors on the mean square error of the target, functions of alpha, sigma and the target.

An error e of a target with determinant D = alpha q - sigma p (module `targets`) is an error

    -(sigma / D) e of x0,        (alpha / D) e of eps,        ((alpha sigma' - sigma alpha') / D) e of the velocity

so a weight that a paper states for one target is defined here once, in that space, and converted to the trained target.
With SNR = alpha^2 / sigma^2:

    target              1: the plain mean square of what is predicted
    eps                 mean square of the implied eps, SNR in x0 space (DDPM's simple loss for any target)
    velocity            mean square of the implied velocity; SiT's "velocity" weight for noise and score models
    likelihood          g / sigma^2 on eps, g = sigma sigma' - sigma^2 alpha' / alpha (SiT "likelihood", for maximum
                        likelihood)
    inverse_variance    1 / sigma^2 ("sigma_sqrt" of Stable Diffusion 3's code)
    min_snr             min(SNR, gamma) in x0 space (Hang et al. 2023); 1 where SNR = 0, so that a process with
                        zero terminal SNR trains its last step
    max_snr             max(SNR, 1) in x0 space ("truncated SNR", Salimans & Ho 2022, section 4)

A factor that diverges where D vanishes (sigma / alpha towards the noise, alpha / sigma towards the data, a rate over
either) is clipped at 20. All others are exact, including quotients of two small numbers; min_snr is never clipped.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array

Weighting = Literal["target", "eps", "velocity", "likelihood", "inverse_variance", "min_snr", "max_snr"]

MOST = 20.0
"""Largest factor on an error, where it would diverge."""


def loss_weight(
    kind: Weighting, alpha: Array, sigma: Array, p: Array, q: Array, rates: tuple[Array, Array], gamma: float = 5.0
) -> Array:
    """The factor on the squared error of `p x0 + q eps`, shaped as alpha.

    `rates` are (d alpha / d t, d sigma / d t).
    """
    if kind == "target":
        return jnp.ones_like(alpha)
    d_alpha, d_sigma = rates
    determinant = alpha * q - sigma * p
    safe_sigma, safe_alpha = jnp.maximum(sigma, 1e-6), jnp.maximum(alpha, 1e-6)
    match kind:
        case "eps":
            return _factor(alpha, determinant) ** 2
        case "velocity":
            return _factor(alpha * d_sigma - sigma * d_alpha, determinant) ** 2
        case "likelihood":
            rate = sigma * d_sigma - sigma**2 * d_alpha / safe_alpha
            return rate / safe_sigma**2 * _factor(alpha, determinant) ** 2
        case "inverse_variance":
            return 1.0 / safe_sigma**2
        case "min_snr":  # min(SNR, gamma) (sigma / D)^2, in factors that are finite wherever their minimum is
            of_x0, of_eps = _factor(sigma, determinant, jnp.inf), _factor(alpha, determinant, jnp.inf)
            return jnp.where(alpha == 0, 1.0, jnp.minimum(of_eps, gamma**0.5 * of_x0) ** 2)
        case "max_snr":  # max(SNR, 1) (sigma / D)^2
            weight = jnp.maximum(_factor(alpha, determinant), _factor(sigma, determinant)) ** 2
            return jnp.where(alpha == 0, 1.0, weight)


def _factor(numerator: Array, determinant: Array, most: float = MOST) -> Array:
    """|numerator / D|, at most `most`; 1 where both vanish: the limit of sigma / sigma, of alpha / alpha."""
    singular = determinant == 0
    ratio = jnp.abs(numerator) / jnp.abs(jnp.where(singular, 1.0, determinant))
    return jnp.minimum(jnp.where(singular, jnp.where(numerator == 0, 1.0, most), ratio), most)
