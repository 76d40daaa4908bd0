r"""Modes of any model that denoises: changing what is given instead of drawing from noise. No training is needed.

With x0 what is given (in the space that is denoised), n noise, and a decreasing grid t_0 > ... > t_k:

    image to image   x = alpha(t_i) x0 + sigma(t_i) n, then the steps from t_i on (SDEdit, Meng et al. 2021); `strength`
                     is the share of steps, rounded down: 0 returns x0, 1 is plain sampling, from pure noise
    inpainting       m = 1 where it is filled. Before every call of the network
                         x <- m x + (1 - m) (alpha(t) x0 + sigma(t) n),        n the same throughout,
                     and the known part of its prediction is (x0, n): so every solver, of several steps too, keeps the
                     known part on its path, and ends at x0 there
    RePaint          ancestral steps with this replacement, each made `repeats` times; between two of them x_s returns
                     to t by q(x_t | x_s) (Lugmayr et al. 2022), which fits the filled part to the known one
    inversion        the x_t from which DDIM's step (eta = 0) leads to x_s, by fixed-point iteration, from data to
                     noise; without iterations Song's step, which reads eps at s instead of t
    interpolation    samples from slerp(n_a, n_b, u) of two inverted noises

The replacement is not the exact conditional distribution: the filled part is told of the known one at the same noise.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.processes.targets import Prediction, Process, diffuse, expand
from unified_jax.samplers.ddim import ddim, ddim_step
from unified_jax.samplers.loop import START, Denoiser, normal_like
from unified_jax.typing import Keys

Solver = Callable[[Denoiser, Process, Array, Any, Keys], Array]
"""A sampler's call, of one array."""


def last_steps(grid: Any, strength: float) -> np.ndarray:
    """The end of a grid: the share `strength` of its steps, rounded down. Raises ValueError outside [0, 1].

    >>> last_steps([1.0, 0.75, 0.5, 0.25, 0.0], 0.5).tolist()
    [0.5, 0.25, 0.0]
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"The strength of an edit lies in [0, 1], found {strength}.")
    steps = len(grid) - 1
    return np.asarray(grid)[steps - int(steps * strength + 1e-9) :]


def noised(process: Process, x0: Array, noise: Array, t: Any) -> Array:
    """alpha(t) x0 + sigma(t) noise at one time."""
    return diffuse(process, x0, noise, jnp.full(len(x0), t))


def image_to_image(
    solve: Solver, denoise: Denoiser, process: Process, x0: Array, grid: Any, keys: Keys, strength: float
) -> Array:
    """x0 noised to the start of the last steps of the grid, and denoised from there."""
    rest = last_steps(grid, strength)
    if len(rest) == 1:
        return x0
    noise = normal_like(keys, START, x0)
    whole = len(rest) == len(grid)  # from pure noise: a discrete process has a little of its data at its last step
    x = process.start(noise, jnp.full(len(x0), rest[0])) if whole else noised(process, x0, noise, rest[0])
    return solve(denoise, process, x, rest, keys)


def replaced(denoise: Denoiser, process: Process, x0: Array, noise: Array, fill: Array) -> Denoiser:
    """The denoiser with the known part, where `fill` is 0, at its own noise, and known in the prediction."""

    def told(x: Array, t: Array) -> Prediction:
        said = denoise(jnp.where(fill > 0, x, diffuse(process, x0, noise, t)), t)
        return said._replace(x0=jnp.where(fill > 0, said.x0, x0), eps=jnp.where(fill > 0, said.eps, noise))

    return told


def inpaint(
    solve: Solver, denoise: Denoiser, process: Process, x0: Array, fill: Array, grid: Any, keys: Keys,
    strength: float = 1.0, repeats: int = 1,
) -> Array:  # fmt: skip
    """x0 with new content where `fill` (1 or 0, of x0's shape or broadcasting to it) is 1.

    With a strength below 1 the filled part starts from what x0 has there. With `repeats` above 1 steps are RePaint's,
    whatever `solve` is.
    """
    fill = jnp.broadcast_to(fill, x0.shape)
    told = replaced(denoise, process, x0, normal_like(keys, START, x0), fill)
    run = solve if repeats == 1 else functools.partial(repaint, repeats=repeats)
    return jnp.where(fill > 0, image_to_image(run, told, process, x0, grid, keys, strength), x0)


def repaint(denoise: Denoiser, process: Process, x: Array, grid: Any, keys: Keys, *, repeats: int) -> Array:
    """Ancestral steps (DDIM with eta = 1), each made `repeats` times, with a return to its start in between."""
    grid = jnp.asarray(grid)

    def body(x: Array, inputs: Any) -> tuple[Array, None]:
        i, t, s = inputs

        def once(r: Any, x: Array) -> Array:
            number = 2 * (i * repeats + r)
            said = denoise(x, jnp.full(len(x), t))
            down = ddim_step(process, said, x, t, s, normal_like(keys, number, x), eta=1.0)
            return jnp.where(r + 1 < repeats, back(process, down, s, t, normal_like(keys, number + 1, x)), down)

        return jax.lax.fori_loop(0, repeats, once, x), None

    return jax.lax.scan(body, x, (jnp.arange(len(grid) - 1), grid[:-1], grid[1:]))[0]


def back(process: Process, x_s: Array, s: Any, t: Any, noise: Array) -> Array:
    """A draw of q(x_t | x_s) for t > s: (alpha_t / alpha_s) x_s, and the noise that is missing."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = process.alpha_sigma(t), process.alpha_sigma(s)
    ratio = alpha_t / alpha_s
    return ratio * x_s + jnp.sqrt(jnp.maximum(sigma_t**2 - (ratio * sigma_s) ** 2, 0.0)) * noise


def invert(
    denoise: Denoiser, process: Process, x0: Array, grid: Any, keys: Keys, iterations: int = 3
) -> Float[Array, "b ..."]:
    """The x at the first time of a decreasing grid from which `ddim` leads to x0; `iterations` calls a step.

    Where the network is smooth over a step, more iterations come closer to the inverse. 0: Song's step, one call.
    """
    up = np.asarray(grid)[::-1]
    if iterations == 0:
        return ddim(denoise, process, x0, up, keys)

    def body(x_s: Array, times: Any) -> tuple[Array, None]:
        s, t = times
        alpha_s, sigma_s = process.alpha_sigma(s)
        alpha_t, sigma_t = process.alpha_sigma(t)
        near_data = sigma_s < alpha_s  # each form contracts at its end of the path

        def closer(_: Any, x: Array) -> Array:
            said = denoise(x, jnp.full(len(x), t))
            by_eps = alpha_t * (x_s - sigma_s * said.eps) / jnp.where(near_data, alpha_s, 1.0) + sigma_t * said.eps
            by_x0 = sigma_t * (x_s - alpha_s * said.x0) / jnp.where(near_data, 1.0, sigma_s) + alpha_t * said.x0
            return jnp.where(expand(near_data, x), by_eps, by_x0)

        return jax.lax.fori_loop(0, iterations, closer, x_s), None

    up = jnp.asarray(up)
    return jax.lax.scan(body, x0, (up[:-1], up[1:]))[0]
