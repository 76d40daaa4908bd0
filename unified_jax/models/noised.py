"""A stream of a batch at its times."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from unified_jax.layers.form import NoisyInput
from unified_jax.models.inside import losses_inside
from unified_jax.models.streams import Stream
from unified_jax.processes.targets import diffuse, expand, shown_clean


class Noised(NamedTuple):
    """A stream of a batch."""

    x0: Array
    eps: Array
    t: Array
    x_t: Array
    shown: NoisyInput
    clean: Bool[Array, "b"] | None


def noised(stream: Stream, x0: Array, eps: Array, t: Array, u: Array | None) -> Noised:
    """The stream at these times; `u`, uniform, selects the examples at the ends of time."""
    process, form = stream.process, stream.form
    if getattr(stream.modality, "buckets", ()):  # the size of this batch
        form = replace(form, shape=x0.shape[1:])
    if u is None:
        x_t = diffuse(process, x0, eps, t)
        shown = NoisyInput(form, process.network_input(x_t, t), process.network_time(t))
        return Noised(x0, eps, t, x_t, shown, None)
    noise_time: Any = getattr(process, "noise_time")  # noqa: B009  (Stream refuses a process without one)
    clean, pure = u < 0.5 * stream.ends, (u >= 0.5 * stream.ends) & (u < stream.ends)
    t = jnp.where(pure, jnp.asarray(noise_time, t.dtype), t)
    x_t = jnp.where(expand(pure, x0), process.start(eps, t), diffuse(process, x0, eps, t))
    whole, at = shown_clean(process, x0)
    seen = jnp.where(expand(clean, x0), whole, process.network_input(x_t, t))
    time = jnp.where(clean, at, process.network_time(t))
    return Noised(x0, eps, t, x_t, NoisyInput(form, seen, time), clean)


def losses_of(stream: Stream, one: Noised, inside: Bool[Array, "b ..."] | None, output: Array) -> dict[str, Array]:
    """The process's losses `[b]` of a prediction; 0 of a stream that is clean."""
    found = losses_inside(stream.process, output, one.x0, one.eps, one.x_t, one.t, inside)
    return {n: v if one.clean is None else jnp.where(one.clean, 0.0, v) for n, v in found.items()}
