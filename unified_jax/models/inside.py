"""Losses of padded examples: the mean over the places that are data, whatever the process.

A process's terms are means over an example's places, each place's part a function of that place alone. So the process
gets every place as an example of one place, and the mean is taken over those inside. Outside, every array is replaced
by one value, x0 = 1 and eps = -1 with the x_t and output that belong to them: nothing there has a gradient, and none is
undefined (a direction has none at 0).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from unified_jax.modalities.base import INSIDE
from unified_jax.processes.targets import Process, diffuse, expand
from unified_jax.typing import Batch, Keys


def inside_of(modality: Any, batch: Batch) -> Bool[Array, "b ..."] | None:
    """Which places `[b, *sizes, 1]` of a modality's examples are data; None where the batch does not say."""
    bounds = batch.get(modality.name + INSIDE)
    return None if bounds is None else modality.inside(jnp.asarray(bounds))


def losses_inside(
    process: Process, output: Array, x0: Array, eps: Array, x_t: Array, t: Array, inside: Bool[Array, "b ..."] | None
) -> dict[str, Float[Array, "b"]]:
    """The process's losses over what is inside; None: over everything."""
    if inside is None:
        return process.losses(output, x0, eps, x_t, t)
    places = [_places(array) for array in settled(process, output, x0, eps, x_t, t, inside)]
    everywhere: Any = jax.vmap(process.losses, in_axes=(1, 1, 1, 1, None), out_axes=1)
    found = everywhere(*places, t)
    held = inside.reshape(len(inside), -1)
    return {name: jnp.sum(jnp.where(held, value, 0.0), axis=1) / jnp.sum(held, axis=1) for name, value in found.items()}


def settled(
    process: Process, output: Array, x0: Array, eps: Array, x_t: Array, t: Array, inside: Bool[Array, "b ..."]
) -> tuple[Array, Array, Array, Array]:
    """(output, x0, eps, x_t) with one value outside, where nothing has a gradient and no loss is undefined."""
    one = jnp.ones((len(x0),) + (1,) * (x0.ndim - 2) + x0.shape[-1:], x0.dtype)
    p, q = (expand(v, one) for v in process.target_coefficients(t))
    rest = jnp.zeros((*one.shape[:-1], output.shape[-1] - one.shape[-1]), output.dtype)
    same = (jnp.concatenate([((p - q) * one).astype(output.dtype), rest], axis=-1), one, -one)
    pairs = zip((output, x0, eps, x_t), (*same, diffuse(process, one, -one, t)), strict=True)
    made = [jnp.where(inside, a, b) for a, b in pairs]
    return made[0], made[1], made[2], made[3]


def with_border_noise(
    x0: Float[Array, "b ..."], inside: Bool[Array, "b ..."] | None, noise: float, keys: Keys
) -> Float[Array, "b ..."]:
    """Examples with noise in what their modality padded."""
    if inside is None:
        return x0
    drawn = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:], x0.dtype))(keys)
    return jnp.where(inside, x0, x0 + noise * drawn)


def _places(x: Array) -> Array:
    """`[b, *sizes, c]` as `[b, places, 1, ..., 1, c]`: an array of the same rank for every place."""
    return x.reshape(len(x), -1, *(1,) * (x.ndim - 2), x.shape[-1])
