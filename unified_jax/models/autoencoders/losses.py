r"""Losses of autoencoders, as functions (latent diffusion, taming, VA-VAE).

    reconstruction   e = |x - y| + w LPIPS(x, y), the LPIPS of an image added to each of its numbers
                     sum of e over an image, mean over images (latent diffusion), or the mean of e (taming)
    adversary        generator -E D(y); discriminator (E relu(1 - D(x)) + E relu(1 + D(y))) / 2, or with softplus
    adaptive weight  |grad of reconstruction| / (|grad of the other| + 1e-4), both of one layer's kernel
    VF               1/N^2 sum_ij relu(|cos(z_i, z_j) - cos(f_i, f_j)| - m_d)   `vf_distances`
                     1/N sum_i relu(1 - m_c - cos(z_i, f_i))                    `vf_cosines`

z are latents, projected to the width of the features f of a frozen encoder at the same positions.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.networks.autoencoders.quantise import unit
from unified_jax.precision import precision


def errors(
    x: Float[Array, "b *s"], y: Float[Array, "b *s"], perceptual: Float[Array, "b"] | float = 0.0
) -> Float[Array, "b *s"]:
    """|x - y|, with the images' own distance added to each number."""
    added = jnp.asarray(perceptual)
    return jnp.abs(x - y) + added.reshape(-1, *(1,) * (x.ndim - 1))


def summed(errors: Float[Array, "b *s"], logvar: Float[Array, ""] | float = 0.0) -> Float[Array, ""]:
    """Sum of e / exp(s) + s over an image, mean over images: a negative log-likelihood. s is 0 unless it is learned."""
    s = jnp.asarray(logvar)
    return jnp.sum(errors / jnp.exp(s) + s) / len(errors)


def generator(fake: Float[Array, "..."]) -> Float[Array, ""]:
    """What a generator makes small."""
    return -jnp.mean(fake)


def hinge(real: Float[Array, "..."], fake: Float[Array, "..."]) -> Float[Array, ""]:
    """What a discriminator makes small; 1 where it says nothing."""
    return 0.5 * (jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake)))


def vanilla(real: Float[Array, "..."], fake: Float[Array, "..."]) -> Float[Array, ""]:
    """The same by the logistic loss."""
    return 0.5 * (jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake)))


def adaptive(main: Any, other: Any, most: float = 1e4) -> Float[Array, ""]:
    """|main| / (|other| + 1e-4), between 0 and `most`, without a gradient; both are gradients of one layer's kernel."""

    def length(tree: Any) -> Array:
        return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))

    return jax.lax.stop_gradient(jnp.clip(length(main) / (length(other) + 1e-4), 0.0, most))


def started(step: Array | int, start: int) -> Float[Array, ""]:
    """1 from this step on, 0 before."""
    return (jnp.asarray(step) >= start).astype(jnp.float32)


def vf_distances(z: Float[Array, "b n d"], f: Float[Array, "b n d"], margin: float = 0.0) -> Float[Array, ""]:
    """How far the latents' cosines with each other are from the features', beyond a margin."""

    def cosines(x: Array) -> Array:
        x = unit(x)
        return jnp.einsum("bid,bjd->bij", x, x, precision=precision(x.dtype))

    return jnp.mean(jax.nn.relu(jnp.abs(cosines(z) - cosines(f)) - margin))


def vf_cosines(z: Float[Array, "b n d"], f: Float[Array, "b n d"], margin: float = 0.0) -> Float[Array, ""]:
    """How far the latents' cosines with their own features are below 1, beyond a margin."""
    return jnp.mean(jax.nn.relu(1 - margin - jnp.sum(unit(z) * unit(f), axis=-1)))
