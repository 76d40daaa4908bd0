r"""Guidance: denoisers -> denoiser.

Classifier-free guidance (Ho & Salimans 2022) in the code convention, scale s = 1 + w:

    eps = eps_u + s (eps_c - eps_u)

x0 is affine in eps at a fixed x_t, so the same combination is taken of x0 and of eps and they stay consistent; a
learned variance is taken from the conditional side (as in DiT). s = 1 is no guidance and costs no second call.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.processes.targets import Prediction, Process, expand, tree_of_predictions
from unified_jax.samplers.loop import Denoiser


def extrapolate(conditional: Array, unconditional: Array, scale: Any, channels: int | None = None) -> Array:
    """unconditional + scale (conditional - unconditional) on the first `channels` of the last axis (default all).

    The other channels stay conditional. DiT's published samples guide 3 of 4 latent channels.
    """
    guided = unconditional + scale * (conditional - unconditional)
    if channels is None:
        return guided
    return jnp.concatenate([guided[..., :channels], conditional[..., channels:]], axis=-1)


def classifier_free(
    conditional: Denoiser, unconditional: Denoiser, scale: float, channels: int | None = None
) -> Denoiser:
    """The guided denoiser; returns `conditional` itself where scale is 1."""
    if scale == 1:
        return conditional

    def combine(c: Prediction, u: Prediction) -> Prediction:
        x0 = extrapolate(c.x0, u.x0, scale, channels)
        return Prediction(x0, extrapolate(c.eps, u.eps, scale, channels), c.log_variance)

    def denoise(x: Any, t: Any) -> Any:
        return jax.tree.map(combine, conditional(x, t), unconditional(x, t), is_leaf=tree_of_predictions)

    return denoise


def edit_x0(denoise: Denoiser, process: Any, edit: Callable[[Array], Array]) -> Denoiser:
    """A denoiser whose x0 passes through `edit` (e.g. a clip to [-1, 1]) and whose eps is recomputed from it."""

    def leaf(process: Process, prediction: Prediction, x_t: Array, t: Array) -> Prediction:
        alpha, sigma = (expand(v, x_t) for v in process.alpha_sigma(t))
        x0 = edit(prediction.x0)
        eps = jnp.where(sigma > 0, (x_t - alpha * x0) / jnp.where(sigma > 0, sigma, 1.0), 0.0)
        return prediction._replace(x0=x0, eps=eps)

    return lambda x, t: jax.tree.map(leaf, process, denoise(x, t), x, t)


def clip_x0(denoise: Denoiser, process: Any, limit: float = 1.0) -> Denoiser:
    """Clips x0 to [-limit, limit], as the DDPM samplers do for pixels."""
    return edit_x0(denoise, process, lambda x0: jnp.clip(x0, -limit, limit))
