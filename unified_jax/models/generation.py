r"""Sampling with a model of streams: one network for every marginal, conditional and joint distribution.

A given stream enters as x0 at network time 0, an absent one (neither given nor wanted) as pure noise at its noise end.
Wanted streams are denoised, each along its own grid (UniDiffuser, Bao et al. 2023). Guidance drops conditions, or
treats given streams as absent: the same call with other times. So are streams that are sampled together guided away
from their marginals (`Guidance.joint`).
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num

from unified_jax.errors import UserError
from unified_jax.layers.form import ConditionInput, NoisyInput
from unified_jax.modalities.conditions import NEGATIVE
from unified_jax.models.controls import controlled
from unified_jax.models.nulls import without
from unified_jax.models.streams import Stream
from unified_jax.processes.targets import Process, shown_clean
from unified_jax.samplers.guidance import clip_x0, from_marginals, guided
from unified_jax.samplers.loop import START, Denoiser, normal_like
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.samplers.skip_layers import SkipLayers, away
from unified_jax.sharding import constrain
from unified_jax.typing import Keys, Params

ABSENT = 7003
"""Purpose of the noise of an absent stream: sampled once per sample, from its own key."""


class Sampling(NamedTuple):
    """The arguments of a sampler: `sampler(denoise, process, x, grid, keys)`.

    For a model of one stream each is a plain value; for several, a dict by stream label.
    """

    denoise: Denoiser
    """(x_t, t) -> Prediction, with guidance applied."""
    process: Any
    grid: Any
    """Decreasing times `[steps + 1]`."""
    noise: Any
    """Initial noise: x at the grid's first time `[b, ...]`."""


class Request(NamedTuple):
    """A sampling request."""

    model: Any
    params: Params
    given: dict[str, Array]
    """Prepared conditions by field, one row per sample."""
    keys: Keys
    plan: SamplingPlan
    conditions: tuple[ConditionInput, ...] = ()
    """What the network reads."""
    instead: tuple[ConditionInput, ...] = ()
    """What it reads in the place of a dropped condition (negative prompts); () for the nulls."""
    held: dict[str, Array] | None = None
    """Given streams by label, where they are denoised."""

    def clean(self, stream: Stream) -> bool:
        """Whether a stream is given: a model of one stream reads only its conditions."""
        there = stream.modality.name in self.given or stream.label in (self.held or {})
        return len(self.model.streams) > 1 and there


def check_axes(model: Any, plan: SamplingPlan) -> None:
    """Raises UserError for an axis of guidance over a name that the model does not have."""
    labels = [one.label for one in (*model.reads, *model.streams)]
    named = [name for axis in plan.guidance.axes for name in (*axis.without, *axis.of)]
    if unknown := [name for name in named if name not in labels]:
        raise UserError(f"A guidance axis names {unknown[0]!r}; the model has {', '.join(dict.fromkeys(labels))}.")


def generate(
    model: Any, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan
) -> dict[str, Num[Array, "b ..."]]:
    """See `Denoising.generate`; streams that share its times are sampled with it."""
    denoise, process, grid, noise = sampling(model, params, given, wanted, keys, plan)
    made = plan.run(denoise, process, noise, grid, keys)
    if len(model.streams) == 1:
        return {wanted[0]: model.streams[0].from_space(params, made)}
    sampled = partners(Request(model, params, without_negatives(given), keys, plan), wanted)
    by_field = {stream.modality.name: stream for stream in sampled[::-1]}
    return {name: by_field[name].from_space(params, made[by_field[name].label]) for name in wanted}


def sampling(
    model: Any, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan,
    held: dict[str, Array] | None = None,
) -> Sampling:  # fmt: skip
    """The guided denoiser of the wanted streams and their partners, and its initial noise.

    `held` are given streams by label, where they are denoised: latents, or model space.
    """
    model.check_plan(plan)
    given, against = without_negatives(given), negatives(given)
    conditions = model.conditions_of(params, given, len(keys), keys, plan.complete)
    replaced = against or any(c.form.null == "empty" for c in model.reads)
    instead = model.conditions_of(params, against, len(keys), keys) if replaced else ()
    request = Request(model, params, given, keys, plan, conditions, instead, held)
    made = partners(request, wanted)
    check_request(request)
    views = {stream.label: plan.prepare(stream.process) for stream in made}
    process = {stream.label: views[stream.label][0] for stream in made}
    grid = {stream.label: views[stream.label][1] for stream in made}
    zeros = {stream.label: jnp.zeros((len(keys), *stream.shape)) for stream in made}
    removable = [c.label for c in model.reads if c.guided and not c.form.kept]
    removable += [stream.label for stream in model.streams if request.clean(stream)]
    denoise = guided(lambda dropped: denoiser(request, process, dropped), tuple(removable), process, plan.guidance)
    if plan.guidance.skip is not None:
        skipping = denoiser(request._replace(model=without_layers(model, plan.guidance.skip)), process, frozenset())
        denoise = away(denoise, denoiser(request, process, frozenset()), skipping, process, plan.guidance.skip)
    parts = [tuple(s.label for s in made if s.clock == clock) for clock in dict.fromkeys(s.clock for s in made)]
    if plan.guidance.joint != 1 and len(parts) > 1:
        alone = ({name: process[name] for name in part} for part in parts)
        marginals = tuple((part, denoiser(request, one, frozenset())) for part, one in zip(parts, alone, strict=True))
        denoise = from_marginals(denoise, marginals, process, plan.guidance)
    if plan.clip:
        denoise = clip_x0(denoise, process)
    if len(model.streams) > 1:
        return Sampling(denoise, process, grid, _start(process, zeros, grid, keys))
    (label,) = process  # a sampler of one array: its noise has no stream name
    start = _start(process[label], zeros[label], grid[label], keys)
    return Sampling(lambda x, t: denoise({label: x}, {label: t})[label], process[label], grid[label], start)


def without_layers(model: Any, skip: SkipLayers) -> Any:
    """The model whose network leaves blocks out. Raises UserError for a network that has no such field or blocks."""
    network = model.network
    if not hasattr(network, "skip"):
        raise UserError(f"Skip-layer guidance needs a network that can skip blocks; {type(network).__name__} cannot.")
    try:
        return replace(model, network=network.clone(skip=skip.layers))
    except ValueError as error:
        raise UserError(f"Skip-layer guidance: {error}") from error


def without_negatives(given: dict[str, Array]) -> dict[str, Array]:
    """The conditions themselves."""
    return {name: value for name, value in given.items() if not name.startswith(NEGATIVE)}


def negatives(given: dict[str, Array]) -> dict[str, Array]:
    """What guidance points away from, by field."""
    return {name.removeprefix(NEGATIVE): value for name, value in given.items() if name.startswith(NEGATIVE)}


def partners(request: Request, wanted: tuple[str, ...]) -> tuple[Stream, ...]:
    """The sampled streams: the wanted ones and those that share their times.

    Raises UserError if only some streams of shared times are given.
    """
    streams = request.model.streams
    clocks = {stream.clock for stream in streams if stream.modality.name in wanted}
    for clock in dict.fromkeys(stream.clock for stream in streams):
        together = [stream for stream in streams if stream.clock == clock]
        if len({request.clean(stream) for stream in together}) > 1:
            names = ", ".join(stream.modality.name for stream in together)
            raise UserError(f"{names} share one time: give all of them, or none.")
    return tuple(stream for stream in streams if stream.clock in clocks)


def check_request(request: Request) -> None:
    """Raises UserError for an absent condition without a null, or a sampler that supports one array only."""
    for c in request.model.reads:
        if c.form.null == "none" and c.source.name not in request.given:
            raise UserError(f"The condition {c.label!r} has no null: give {c.source.name!r}.")
    if request.plan.clip and any(stream.latents for stream in request.model.streams):
        raise UserError("plan.clip bounds data to [-1, 1], and latents have no bounds: leave it off.")
    needs = request.plan.sampler.needs
    if len(request.model.streams) > 1 and (needs.adaptive or needs.even_log_levels):
        name = type(request.plan.sampler).__name__
        raise UserError(f"The sampler {name} steps a single array; choose another for several streams.")


def denoiser(request: Request, process: dict[str, Process], dropped: frozenset[str]) -> Denoiser:
    """(x_t, t) -> Prediction over dicts like `process`, without the conditions and given streams in `dropped`.

    Streams of shared times are dropped together.
    """
    model, count = request.model, len(request.keys)
    clocks = {stream.clock for stream in model.streams if stream.label in dropped}
    every = jnp.ones((count,), bool)
    nulls = request.instead or tuple(without(shown, every) for shown in request.conditions)
    conditions = tuple(
        null if shown.form.name in dropped else shown for shown, null in zip(request.conditions, nulls, strict=True)
    )
    still = {s.label: _still(request, s, s.clock in clocks) for s in model.streams if s.label not in process}
    forms = {stream.label: stream.form for stream in model.streams}

    def denoise(x_t: dict[str, Array], t: dict[str, Array]) -> Any:
        moving = {
            label: NoisyInput(forms[label], p.network_input(x_t[label], t[label]), p.network_time(t[label]))
            for label, p in process.items()
        }
        noisy = tuple((moving | still)[stream.label] for stream in model.streams)
        (first, *_) = process
        told = controlled(model, conditions, lambda: process[first].unit_time(t[first]))
        outputs, _ = model.call(request.params, noisy, told)
        return {label: p.predict(outputs[label], x_t[label], t[label]) for label, p in process.items()}

    return denoise


def _still(request: Request, stream: Stream, dropped: bool) -> NoisyInput:
    """A stream that is not sampled: clean if given, else pure noise."""
    count = len(request.keys)
    if request.clean(stream) and not dropped:
        x0 = (request.held or {}).get(stream.label)
        if x0 is None:
            x0 = stream.to_space(request.params, jnp.asarray(request.given[stream.modality.name]))
        x0, at = shown_clean(stream.process, x0)
        return NoisyInput(stream.form, x0, jnp.full(count, at))
    process: Any = stream.process
    end = process.noise_time if hasattr(process, "noise_time") else request.plan.prepare(process)[1][0]
    keys = jax.vmap(lambda key: jax.random.fold_in(key, ABSENT))(request.keys)
    eps = normal_like(keys, START, {stream.label: jnp.zeros((count, *stream.shape))})[stream.label]
    t = jnp.full(count, end)
    return NoisyInput(stream.form, process.network_input(process.start(eps, t), t), process.network_time(t))


def _start(process: Any, zeros: Any, grid: Any, keys: Keys) -> Any:
    noise = normal_like(keys, START, zeros)
    noise = jax.tree.map(lambda x: constrain(x, "batch", *(None,) * (x.ndim - 2), "channels"), noise)
    return jax.tree.map(lambda p, z, g: p.start(z, jnp.full(len(keys), g[0])), process, noise, grid)
