"""Shared by all samplers: the denoiser's type, the scan over a grid, and noise that belongs to a sample.

A sampler works on a tree. `process` is one process or a dict of them (one per modality); `x`, `grid` and the denoiser's
answer follow its structure: with one process they are an array `[b, ...]`, an array `[k + 1]` and a `Prediction`; with
a dict they are dicts of these. A new sampler writes its step for one array and passes it to `scan_steps`.

Noise: that of step i of sample j is `fold_in(fold_in(keys[j], i), crc32(path of the modality))`, which is
independent of the batch, the device and the other sampled modalities.
"""

import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.typing import Keys

Denoiser = Callable[[Any, Any], Any]
"""(x_t, t) -> Prediction, over arrays or over dicts of them; t is `[b]`."""

Draw = Callable[[Keys, Any, Any], Any]
"""(keys, step, x) -> standard normal noise like x."""

Step = Callable[..., Array]
"""(process, prediction, x_t, t, s, noise) -> x_s for one array; t and s are the scalar times of this step."""

START = -1
"""The `step` of the initial noise."""


def normal_like(keys: Keys, step: Any, x: Any) -> Any:
    """Standard normal noise shaped as the tree x (leaves `[b, ...]`), a function of (key, step, path) only."""

    def leaf(path: Any, value: Array) -> Array:
        tag = zlib.crc32(jax.tree_util.keystr(path).encode()) & 0x7FFFFFFF

        def one(key: Array) -> Array:
            key = jax.random.fold_in(jax.random.fold_in(key, step + 1), tag)
            return jax.random.normal(key, value.shape[1:], jnp.result_type(float))

        return jax.vmap(one)(keys)

    return jax.tree_util.tree_map_with_path(leaf, x)


def at_time(process: Any, grid: Any, x: Any) -> Any:
    """The scalar times of one step as the `[b]` arrays a denoiser takes."""
    return jax.tree.map(lambda _, time, value: jnp.full(value.shape[:1], time), process, grid, x)


def scan_steps(
    step: Step, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys, draw: Draw | None = normal_like
) -> Any:
    """Runs `step` along the grid, one denoiser call per step, inside one scan. `draw=None` for a deterministic step."""
    here, there = step_pairs(process, grid)

    def body(x: Any, inputs: Any) -> tuple[Any, None]:
        i, t, s = inputs
        prediction = denoise(x, at_time(process, t, x))
        noise = jax.tree.map(jnp.zeros_like, x) if draw is None else draw(keys, i, x)
        return jax.tree.map(step, process, prediction, x, t, s, noise), None

    count = jax.tree.leaves(here)[0].shape[0]
    return jax.lax.scan(body, x, (jnp.arange(count), here, there))[0]


def step_pairs(process: Any, grid: Any) -> tuple[Any, Any]:
    """The grid's steps as two trees: their start times and their end times."""
    grid = jax.tree.map(lambda _, times: jnp.asarray(times), process, grid)
    return jax.tree.map(lambda g: g[:-1], grid), jax.tree.map(lambda g: g[1:], grid)


def slerp(a: Array, b: Array, share: float | Array) -> Array:
    """Spherical interpolation of two noises `[b, ...]`, a row at a time (DDIM, section 5.3).

    A straight line between two samples of high-dimensional noise leaves their sphere; this stays on it. Denoised
    deterministically (`ddim` with eta = 0), it interpolates between two samples.

    >>> slerp(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]]), 0.5).round(3)
    Array([[0.707, 0.707]], dtype=float32)
    """
    u, v = a.reshape(len(a), -1), b.reshape(len(b), -1)
    norms = jnp.linalg.norm(u, axis=1) * jnp.linalg.norm(v, axis=1)
    angle = jnp.arccos(jnp.clip(jnp.sum(u * v, axis=1) / jnp.maximum(norms, 1e-12), -1.0, 1.0))
    apart = jnp.sin(angle) > 1e-4
    sine = jnp.where(apart, jnp.sin(angle), 1.0)
    left = jnp.where(apart, jnp.sin((1.0 - share) * angle) / sine, 1.0 - share)
    right = jnp.where(apart, jnp.sin(share * angle) / sine, share)
    return (left[:, None] * u + right[:, None] * v).reshape(a.shape)
