"""The finite variant, in which the best possible denoiser is known.

Without jitter and with one object, the image takes finitely many values x_1 ... x_n (6 shapes x 8 colours x 3 sizes x 9
places = 1296 in all; motion does not show in the first frame), equally likely or with prior weights pi_i. For
x_t = alpha x0 + sigma eps, with standard Gaussian eps,

    w_i(x_t) = p(x0 = x_i | x_t)  is proportional to  pi_i exp(-|x_t - alpha x_i|^2 / (2 sigma^2))                   (1)
    E[x0 | x_t] = sum_i w_i x_i                                                                                      (2)

and (2) is the denoiser of least mean squared error. That error, per pixel and channel (D of them), is

    mmse(alpha, sigma) = E[ sum_i w_i |x_i - E[x0 | x_t]|^2 ] / D                                                    (3)

estimated by sampling x_t. (Averaging the posterior variance instead of |x0 - E[x0 | x_t]|^2 has the same mean and a
smaller variance.) It is 0 in the limit sigma -> 0 and the variance of the prior at alpha = 0.

*Floor of a loss.* A network that regresses target = p x0 + q eps sees x_t; as eps = (x_t - alpha x0) / sigma,

    target = (p - q alpha / sigma) x0 + (q / sigma) x_t,   floor = (p - q alpha / sigma)^2 mmse(alpha, sigma)        (4)

As sigma -> 0 (alpha > 0) the mmse of a finite set vanishes faster than any power of sigma, and so does the floor. At
sigma = 0 exactly, x_t does not determine eps and the floor jumps to q^2. At alpha = 0 it is p^2 times the prior
variance.

The images are float32 in [-1, 1]. Only this module of the world uses JAX.
"""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unified_jax.data.world.render import render_image
from unified_jax.data.world.scene import COLOURS, GRID, PLACES, RADII, SHAPES, SIZES, SPLITS, Object, Scene, held_out

_SMALLEST_VARIANCE = 1e-12
_CHUNK = 128


def finite_attributes(split: str = "train") -> Int[np.ndarray, "n 4"]:
    """(shape, colour, size, place) of every scene, in lexicographic order.

    "train" and "test": the 1,161 scenes that are not held out; "held_out": the other 135; "all": all 1,296. ValueError
    for another split.
    """
    if split not in (*SPLITS, "all"):
        raise ValueError(f"The finite world has no split {split!r}; expected one of {', '.join(SPLITS)}, all.")
    everything = itertools.product(range(len(SHAPES)), range(len(COLOURS)), range(len(SIZES)), range(len(PLACES)))
    rows = [row for row in everything if split == "all" or held_out(*row[:3]) == (split == "held_out")]
    return np.array(rows, np.int32)


def finite_ids(split: str = "train") -> Int[np.ndarray, " n"]:
    """The index of every scene of the split in the list of all 1,296."""
    radices = np.array([len(COLOURS) * len(SIZES) * len(PLACES), len(SIZES) * len(PLACES), len(PLACES), 1])
    return (finite_attributes(split) @ radices).astype(np.int32)


def finite_scenes(split: str = "train") -> tuple[Scene, ...]:
    """The scenes, in the order of `finite_attributes`, without motion."""
    return tuple(
        Scene((Object(shape, colour, size, place, 0, GRID[place % 3], GRID[place // 3], RADII[size]),))
        for shape, colour, size, place in finite_attributes(split).tolist()
    )


def finite_images(resolution: int, split: str = "train") -> Float[np.ndarray, "n r r 3"]:
    """The images, float32 in [-1, 1], in the order of `finite_attributes`."""
    images = np.stack([render_image(scene, resolution) for scene in finite_scenes(split)])
    return images.astype(np.float32) / np.float32(127.5) - 1


def _flat(scenes: Array) -> tuple[Array, Array]:
    """The mean scene [d], and the scenes less it [n, d]."""
    flat = jnp.reshape(scenes, (scenes.shape[0], -1)).astype(jnp.float32)
    mean = flat.mean(0)
    return mean, flat - mean


def _dot(a: Array, b: Array) -> Array:
    """The matrix product in full float32: accelerators would round the factors to fewer bits."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _log_weights(offset: Array, alpha: Array, sigma: Array, centred: Array, log_prior: Array | None) -> Array:
    """Logarithm of (1) up to a constant of each row; `offset` [b, d] is x_t - alpha mean.

    |offset - alpha z|^2 is expanded and its first term, common to all scenes, dropped. As the scenes share a
    background, z = x - mean is small, and little is lost to cancellation.
    """
    energy = jnp.square(centred).sum(1)
    a = alpha[:, None]
    logits = (a * _dot(offset, centred.T) - 0.5 * a * a * energy) / jnp.maximum(sigma**2, _SMALLEST_VARIANCE)[:, None]
    return logits if log_prior is None else logits + log_prior


def _softmax(logits: Array) -> Array:
    """Softmax over the last axis, for logits of any size.

    A compiler may work out the logits once for the maximum and again for the difference, with another rounding. At a
    small sigma they are of the order 1e13, so that the best one would come out at exp(+-1e6). Its exponential is
    therefore set to one, and no other may exceed it.
    """
    best = jnp.argmax(logits, axis=-1, keepdims=True)
    difference = logits - jnp.take_along_axis(logits, best, axis=-1)
    is_best = jnp.arange(logits.shape[-1]) == best
    weights = jnp.where(is_best, 1.0, jnp.exp(jnp.minimum(difference, 0.0)))
    return weights / weights.sum(-1, keepdims=True)


def posterior_weights(
    x_t: Float[Array, "b h w c"],
    alpha: Float[Array, " b"],
    sigma: Float[Array, " b"],
    scenes: Float[Array, "n h w c"],
    log_prior: Float[Array, " n"] | None = None,
) -> Float[Array, "b n"]:
    """Equation (1), float32. `log_prior` need not be normalised; None is the uniform prior.

    Finite for every alpha and sigma >= 0: at sigma = 0 all weight is on the nearest scene; at alpha = 0 the weights
    are the prior.
    """
    alpha, sigma = alpha.astype(jnp.float32), sigma.astype(jnp.float32)
    mean, centred = _flat(scenes)
    offset = jnp.reshape(x_t, (x_t.shape[0], -1)).astype(jnp.float32) - alpha[:, None] * mean
    return _softmax(_log_weights(offset, alpha, sigma, centred, log_prior))


def posterior_mean(
    x_t: Float[Array, "b h w c"],
    alpha: Float[Array, " b"],
    sigma: Float[Array, " b"],
    scenes: Float[Array, "n h w c"],
    log_prior: Float[Array, " n"] | None = None,
) -> Float[Array, "b h w c"]:
    """Equation (2): the Bayes-optimal estimate of x0, float32. See `posterior_weights`."""
    weights = posterior_weights(x_t, alpha, sigma, scenes, log_prior)
    mean, centred = _flat(scenes)
    return (mean + _dot(weights, centred)).reshape(x_t.shape)


@partial(jax.jit, static_argnames="chunks")
def _variances(
    alpha: Array, sigma: Array, scenes: Array, key: PRNGKeyArray, log_prior: Array | None, chunks: int
) -> Float[Array, "chunks m"]:
    """The posterior variance, per pixel and channel, at samples of x_t; in chunks, to bound memory."""
    _, centred = _flat(scenes)
    energy = jnp.square(centred).sum(1)
    rows = jnp.full(_CHUNK, alpha), jnp.full(_CHUNK, sigma)
    log_p = jnp.zeros(len(centred)) if log_prior is None else log_prior

    def chunk(key: PRNGKeyArray) -> Array:
        key_scene, key_noise = jax.random.split(key)
        z = centred[jax.random.categorical(key_scene, log_p, shape=(_CHUNK,))]
        offset = alpha * z + sigma * jax.random.normal(key_noise, z.shape)
        weights = _softmax(_log_weights(offset, *rows, centred, log_prior))
        # sum_i w_i |z_i - z_hat|^2 as E|z|^2 - |E z|^2; negative values are rounding errors.
        variance = _dot(weights, energy) - jnp.square(_dot(weights, centred)).sum(1)
        return jnp.maximum(variance, 0) / centred.shape[1]

    return jax.lax.map(chunk, jax.random.split(key, chunks))


def mmse(
    alpha: float,
    sigma: float,
    scenes: Float[Array, "n h w c"],
    key: PRNGKeyArray,
    samples: int = 1024,
    log_prior: Float[Array, " n"] | None = None,
) -> tuple[float, float]:
    """Equation (3) and its standard error, from `samples` samples (rounded up to a multiple of 128).

    The scalars alpha and sigma apply to all samples. Runs on the host, outside of jit.
    """
    chunks = max(2, -(-samples // _CHUNK))
    inputs = jnp.float32(alpha), jnp.float32(sigma), jnp.asarray(scenes), key, log_prior
    values = np.asarray(_variances(*inputs, chunks=chunks), np.float64).ravel()
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size))


def loss_floor(
    alpha: float,
    sigma: float,
    p: float,
    q: float,
    scenes: Float[Array, "n h w c"],
    key: PRNGKeyArray,
    samples: int = 1024,
    log_prior: Float[Array, " n"] | None = None,
) -> tuple[float, float]:
    """Equation (4) and its standard error: the least mean squared error, per pixel and channel, on p x0 + q eps."""
    value, error = mmse(alpha, sigma, scenes, key, samples, log_prior)
    if sigma == 0:
        # then x_t does not depend on eps at all
        return p * p * value + q * q, p * p * error
    scale = (p - q * alpha / sigma) ** 2
    return scale * value, scale * error
