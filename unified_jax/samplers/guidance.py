r"""Guidance: combines denoisers into one.

Classifier-free guidance (Ho & Salimans 2022) in the code convention, scale s = 1 + w:

    eps = eps_u + s (eps_c - eps_u)

x0 is affine in eps at a fixed x_t, so the same combination of x0 and of eps keeps them consistent. A learned variance
is that of the conditional prediction (as in DiT). s = 1 is no guidance and needs no second call.

The scale may depend on time, in unit time u in [0, 1] (0 data, 1 noise):

    interval        s within (low, high], 1 outside (Kynkaanniemi et al. 2024)
    power cosine    1 + (s - 1) (1 - cos(pi (1 - u)^p)) / 2, growing as noise decreases (MDTv2, Gao et al. 2023)

Several axes (InstructPix2Pix, Brooks et al. 2023, eq. 3; a text and an image, or two texts) are nested: axis k adds its
conditions to those of the axes before it, and with e_k the prediction given axes 1 .. k,

    eps = e_0 + sum_k s_k (e_k - e_{k-1})

so e_0 drops the conditions of all axes, and scales of 1 are no guidance.

Several streams that are sampled together are guided away from their marginals (UniDiffuser, Bao et al. 2023):

    eps_m = (1 - s) eps_m(x_m alone) + s eps_m(x_1, x_2, ..),   alone: the other streams are pure noise

`rescale` moves the standard deviation of the guided x0 back to that of the conditional one, by the share phi (Lin et
al. 2023, section 3.4): large scales over-expose.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.config import check_finite
from unified_jax.errors import UserError
from unified_jax.processes.targets import Prediction, Process, expand
from unified_jax.samplers.loop import Denoiser
from unified_jax.samplers.skip_layers import SkipLayers


@dataclass(frozen=True)
class Axis:
    """One of several guidance directions."""

    without: tuple[str, ...]
    """Conditions (or given streams) that this axis adds to those of the axes before it."""
    scale: float = 1.0
    """Scale s_k; 1 is no guidance."""
    low: float = 0.0
    """No guidance at times (0 data, 1 noise) up to this."""
    high: float = 1.0
    """No guidance above this time."""
    of: tuple[str, ...] = ()
    """Streams whose predictions it guides; empty: all."""

    def __post_init__(self) -> None:
        check_finite(self)
        if not self.without or self.scale < 0 or not 0 <= self.low <= self.high <= 1:
            raise ValueError(
                "A guidance axis needs names to leave out, scale >= 0 and 0 <= low <= high <= 1; found "
                f"{self.without}, {self.scale}, {self.low} and {self.high}."
            )

    def at(self, u: Array, stream: str) -> Array:
        """The scale at time u in [0, 1] for a stream, shaped as u."""
        on = (u > self.low) & (u <= self.high) & (not self.of or stream in self.of)
        return jnp.where(on, self.scale, 1.0)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of a sampling run."""

    scale: float = 1.0
    """Scale s = 1 + w; 1 is no guidance."""
    low: float = 0.0
    """No guidance at times (0 data, 1 noise) up to this."""
    high: float = 1.0
    """No guidance above this time."""
    power: float = 0.0
    """Power of the power-cosine schedule (MDTv2 uses 4); 0 is a constant scale."""
    rescale: float = 0.0
    """Share of the conditional standard deviation that is restored (0.7 in the paper); 0 is none."""
    channels: int = 0
    """Guide only the first N channels (3 of 4 latent channels in DiT's and SiT's published samples); 0: all."""
    axes: tuple[Axis, ...] = ()
    """Several guidance directions, in place of one scale for all conditions."""
    skip: SkipLayers | None = None
    """Guidance away from the network without some of its blocks, added to the rest."""
    joint: float = 1.0
    """Scale of several sampled streams away from the marginal of each (UniDiffuser); 1 is none."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.axes and (self.scale, self.low, self.high, self.power) != (1, 0, 1, 0):
            raise ValueError(
                "Guidance has either one scale (with low, high and power) or axes, each with its own; leave scale at 1."
            )
        names = [name for axis in self.axes for name in axis.without]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"Guidance axes must name different conditions; {', '.join(twice)} is in two axes.")
        if self.channels < 0 or self.joint < 0:
            raise ValueError(f"Guidance.channels and joint are not negative, found {self.channels} and {self.joint}.")
        if self.scale < 0 or self.power < 0 or not 0 <= self.rescale <= 1 or not 0 <= self.low <= self.high <= 1:
            raise ValueError(
                "Guidance needs scale >= 0, power >= 0, rescale in [0, 1] and 0 <= low <= high <= 1; found scale = "
                f"{self.scale}, power = {self.power}, rescale = {self.rescale}, low = {self.low}, high = {self.high}."
            )

    def at(self, u: Array) -> Array:
        """The scale at time u in [0, 1], shaped as u."""
        scale = jnp.full_like(u, self.scale)
        if self.power:
            scale = 1.0 + (self.scale - 1.0) * 0.5 * (1.0 - jnp.cos(jnp.pi * (1.0 - u) ** self.power))
        return jnp.where((u > self.low) & (u <= self.high), scale, 1.0)


def extrapolate(conditional: Array, unconditional: Array, scale: Any, channels: int | None = None) -> Array:
    """unconditional + scale (conditional - unconditional) on the first `channels` of the last axis (default all).

    The other channels stay conditional. DiT's published samples guide 3 of 4 latent channels.
    """
    return _in_channels(unconditional + scale * (conditional - unconditional), conditional, channels)


def _in_channels(guided: Array, conditional: Array, channels: int | None) -> Array:
    if not channels:
        return guided
    return jnp.concatenate([guided[..., :channels], conditional[..., channels:]], axis=-1)


def guided(
    denoisers: Callable[[frozenset[str]], Denoiser], removable: tuple[str, ...], process: dict[str, Any],
    guidance: Guidance,
) -> Denoiser:  # fmt: skip
    """The guided denoiser over dicts like `process`; `denoisers(names)` drops these conditions.

    Raises UserError for an axis over a name that is not in `removable`.
    """
    if guidance.axes:
        return nested(denoisers, removable, process, guidance)
    conditional = denoisers(frozenset())
    if not removable or guidance.scale == 1:
        return conditional
    return classifier_free(conditional, denoisers(frozenset(removable)), process, guidance)


def nested(
    denoisers: Callable[[frozenset[str]], Denoiser], removable: tuple[str, ...], process: dict[str, Any],
    guidance: Guidance,
) -> Denoiser:  # fmt: skip
    """eps = e_0 + sum_k s_k (e_k - e_{k-1}) over the axes."""
    for axis in guidance.axes:
        unknown = [name for name in axis.without if name not in removable]
        if unknown := unknown + [name for name in axis.of if name not in process]:
            raise UserError(
                f"A guidance axis names {unknown[0]!r}; what may be left out is {', '.join(removable) or 'nothing'}, "
                f"what is sampled {', '.join(process)}."
            )
    left_out = [frozenset(n for axis in guidance.axes[k:] for n in axis.without) for k in range(len(guidance.axes) + 1)]
    steps = [denoisers(names) for names in left_out]

    def denoise(x: dict[str, Array], t: dict[str, Array]) -> dict[str, Prediction]:
        said = [step(x, t) for step in steps]
        found = {}
        for name, p in process.items():
            u = p.unit_time(t[name])
            x0, eps = said[0][name].x0, said[0][name].eps
            for axis, before, after in zip(guidance.axes, said, said[1:], strict=False):
                scale = expand(axis.at(u, name), x0)
                x0 = x0 + scale * (after[name].x0 - before[name].x0)
                eps = eps + scale * (after[name].eps - before[name].eps)
            full = said[-1][name]
            x0, eps = _in_channels(x0, full.x0, guidance.channels), _in_channels(eps, full.eps, guidance.channels)
            if guidance.rescale:
                x0, eps = restore_deviation(p, x0, eps, full.x0, x[name], t[name], guidance.rescale)
            found[name] = Prediction(x0, eps, full.log_variance)
        return found

    return denoise


def classifier_free(conditional: Denoiser, unconditional: Denoiser, process: Any, guidance: Guidance) -> Denoiser:
    """The guided denoiser; returns `conditional` itself where the scale is 1."""
    if guidance.scale == 1:
        return conditional

    def leaf(p: Process, c: Prediction, u: Prediction, x_t: Array, t: Array) -> Prediction:
        scale, channels = expand(guidance.at(p.unit_time(t)), x_t), guidance.channels or None
        x0 = extrapolate(c.x0, u.x0, scale, channels)
        eps = extrapolate(c.eps, u.eps, scale, channels)
        if guidance.rescale:
            x0, eps = restore_deviation(p, x0, eps, c.x0, x_t, t, guidance.rescale)
        return Prediction(x0, eps, c.log_variance)

    def denoise(x: Any, t: Any) -> Any:
        return jax.tree.map(leaf, process, conditional(x, t), unconditional(x, t), x, t)

    return denoise


def from_marginals(
    joint: Denoiser, marginals: tuple[tuple[tuple[str, ...], Denoiser], ...], process: Any, guidance: Guidance
) -> Denoiser:
    """The joint denoiser guided away from those of each of its parts alone: (names, denoiser of these streams)."""

    def alone(x: Any, t: Any) -> Any:
        found = {}
        for names, denoise in marginals:
            found |= denoise({name: x[name] for name in names}, {name: t[name] for name in names})
        return found

    return classifier_free(joint, alone, process, replace(guidance, scale=guidance.joint, axes=()))


def restore_deviation(
    process: Process, x0: Array, eps: Array, like: Array, x_t: Array, t: Array, share: float
) -> tuple[Array, Array]:
    """x0 scaled towards the standard deviation of `like`, per example, and the matching eps."""
    axes = tuple(range(1, x0.ndim))
    ratio = jnp.std(like, axis=axes, keepdims=True) / jnp.maximum(jnp.std(x0, axis=axes, keepdims=True), 1e-8)
    x0 = x0 * (share * ratio + 1.0 - share)
    return x0, _eps_of(process, x0, eps, x_t, t)


def edit_x0(denoise: Denoiser, process: Any, edit: Callable[[Array], Array]) -> Denoiser:
    """A denoiser whose x0 passes through `edit` (e.g. a clip to [-1, 1]) and whose eps is recomputed from it."""

    def leaf(p: Process, prediction: Prediction, x_t: Array, t: Array) -> Prediction:
        x0 = edit(prediction.x0)
        return prediction._replace(x0=x0, eps=_eps_of(p, x0, prediction.eps, x_t, t))

    return lambda x, t: jax.tree.map(leaf, process, denoise(x, t), x, t)


def _eps_of(process: Process, x0: Array, eps: Array, x_t: Array, t: Array) -> Array:
    """(x_t - alpha x0) / sigma; 0 at the data."""
    alpha, sigma = (expand(v, x_t) for v in process.alpha_sigma(t))
    return jnp.where(sigma > 0, (x_t - alpha * x0) / jnp.where(sigma > 0, sigma, 1.0), jnp.zeros_like(eps))


def clip_x0(denoise: Denoiser, process: Any, limit: float = 1.0) -> Denoiser:
    """Clips x0 to [-limit, limit], as the DDPM samplers do for pixels."""
    return edit_x0(denoise, process, lambda x0: jnp.clip(x0, -limit, limit))


def threshold(x0: Array, quantile: float = 0.995, limit: float = 1.0) -> Array:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3).

    Clips x0 to the example's quantile of |x0|, if above 1, and divides by it; `limit` above 1 bounds the quantile.
    """
    flat = jnp.abs(x0.reshape(len(x0), -1))
    bound = expand(jnp.clip(jnp.quantile(flat, quantile, axis=1), 1.0, max(limit, 1.0)), x0)
    return jnp.clip(x0, -bound, bound) / bound
