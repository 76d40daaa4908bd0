"""Loss over time of a class-conditional model on the finite world, against its Bayes floor.

Without jitter and with one object the Bayes-optimal denoiser is known (`data.world.finite`): at every time the mean
squared error on the target p x0 + q eps has a floor. The model runs without labels, because all of them determine the
image; its distance to the floor is what training can still gain.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.data.world.finite import finite_images, loss_floor
from unified_jax.models.diffusion import Diffusion
from unified_jax.processes.targets import diffuse, expand
from unified_jax.typing import Params


class TimeLoss(NamedTuple):
    """The losses at one time; errors are standard errors."""

    t: float
    """Unit time: 0 data, 1 noise."""
    loss: float
    loss_error: float
    floor: float
    floor_error: float


def loss_over_time(
    model: Diffusion, params: Params, times: list[Any], key: Array, samples: int = 512
) -> list[TimeLoss]:
    """Mean squared error of the target, per pixel and channel, at these times of the process, and its floor.

    `samples` scenes of the training split, sampled once; noise differs between times.
    """
    scenes = jnp.asarray(finite_images(model.modality.shape[0], "train"))
    rng = np.random.default_rng(0)
    x0 = scenes[rng.integers(0, len(scenes), samples)]
    call = jax.jit(_errors, static_argnames="model")
    found = []
    for i, t in enumerate(times):
        noise_key, floor_key = jax.random.split(jax.random.fold_in(key, i))
        rows = jnp.full(samples, t)
        errors = np.asarray(call(model, params, x0, rows, noise_key), np.float64)
        alpha, sigma = (float(v[0]) for v in model.process.alpha_sigma(rows))
        p, q = (float(v[0]) for v in model.process.target_coefficients(rows))
        floor, error = loss_floor(alpha, sigma, p, q, scenes, floor_key, samples)
        where = float(model.process.unit_time(rows)[0])
        found.append(TimeLoss(where, errors.mean(), errors.std(ddof=1) / np.sqrt(samples), floor, error))
    return found


def _errors(model: Diffusion, params: Params, x0: Array, t: Array, key: Array) -> Float[Array, "b"]:
    eps = jax.random.normal(key, x0.shape)
    x_t = diffuse(model.process, x0, eps, t)
    output, _ = model.apply(params, model.process, x_t, t, model.conditions_of(params, {}, len(x0)))
    output = output[..., : x0.shape[-1]]
    p, q = (expand(v, x0) for v in model.process.target_coefficients(t))
    return jnp.mean(jnp.square(output - (p * x0 + q * eps)), axis=tuple(range(1, x0.ndim)))
