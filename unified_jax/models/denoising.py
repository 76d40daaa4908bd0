r"""Training noise and losses of every model that declares streams (sampling: `generation`).

For the example in slot s of step k, random numbers are a function of fold_in(fold_in(fold_in(seed, k), s), purpose).
The purposes of the first stream are those of a model of one stream (NOISE, TIME, ...); stream j > 0 has its own from
`OTHERS` on. With streams m, x_m at its own time t_m,

    loss = sum_m L_m(network({x_m, t_m}, conditions)_m, t_m)

and a stream that is clean (`Stream.ends`) has no loss, like a given one, nor has what its modality padded (`inside`).

Conditions are dropped in three ways: all at once with probability `drop_all`, which trains the unconditional model of
classifier-free guidance; with probability `drop_some` a random subset of uniform size; each by its `Condition.drop`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Num

from unified_jax.errors import UserError
from unified_jax.layers.form import ConditionInput, Layout, NoisyInput, check_outputs, guesses_of, own_parameters
from unified_jax.modalities.conditions import NEGATIVE
from unified_jax.models import generation
from unified_jax.models.alignment import aligned, captures
from unified_jax.models.base import Declared, Terms
from unified_jax.models.checks import check_names
from unified_jax.models.controls import controlled
from unified_jax.models.features import emptied, empties, encoding_given, encodings
from unified_jax.models.inside import inside_of, with_border_noise
from unified_jax.models.latent_features import HoldsLatents, held_latents, in_space
from unified_jax.models.noised import Noised, losses_of, noised
from unified_jax.models.nulls import drop
from unified_jax.models.stages import Encoded, Stage, check_stages, own
from unified_jax.models.streams import Condition, Stream, mirrored
from unified_jax.precision import EXACT
from unified_jax.processes.targets import Process
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.sharding import logical_axes, unbox
from unified_jax.typing import Batch, Keys, Params

NOISE, TIME, DROP_ALL, DROP_SOME, FLIP, DROP_OWN, ENDS, LATENT, PADDING = range(9)
"""Purposes of random numbers in training; NOISE, TIME, ENDS and LATENT of the first stream."""
OTHERS = 16
"""First purpose of the further streams, four each."""
BORDERS = 1 << 16
"""First purpose of the streams' padding, one each."""


class Denoising(HoldsLatents, Declared):
    """A mixin without fields: the behaviour of models of streams, which declare these."""

    network: Any
    drop_all: float
    drop_some: float
    time_bins: int
    streams: tuple[Stream, ...]
    reads: tuple[Condition, ...]
    """The conditions; bare modalities are wrapped."""
    flip: bool = False
    align: Any = None  # see `models.alignment`
    term_names: bool = True
    """Whether loss terms carry their stream's name; a model of one stream uses the process's names."""

    @property
    def modalities(self) -> tuple[Any, ...]:
        """Every field of a batch once: the streams', then the conditions', then features that were computed before."""
        found = [*(s.modality for s in self.streams), *(c.source for c in self.reads)]
        found += [one for c in (*self.reads, *held_latents(self)) for one in c.features]
        return tuple({m.name: m for m in found[::-1]}.values())[::-1]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The conditions' encoders and the streams' autoencoders, each once."""
        found = [c.encoder for c in self.reads if c.encoder is not None]
        found += [s.latents.stage for s in self.streams if s.latents is not None]
        return check_stages(tuple(found), type(self).__name__)

    @property
    def processes(self) -> tuple[Any, ...]:
        """The streams' processes."""
        return tuple(stream.process for stream in self.streams)

    @property
    def wantable(self) -> tuple[str, ...]:
        """Fields that are denoised."""
        return tuple(dict.fromkeys(s.modality.name for s in self.streams))

    @property
    def givable(self) -> tuple[str, ...]:
        """Fields of the conditions, and of the streams if there are several."""
        fields = [c.source.name for c in self.reads]
        return tuple(dict.fromkeys(fields + (list(self.wantable) if len(self.streams) > 1 else [])))

    # ---- parameters -----------------------------------------------------------------------------------------------

    def _boxed(self, key: Array) -> Params:
        noisy = tuple(NoisyInput(s.form, jnp.zeros((1, *s.shape)), jnp.zeros((1,))) for s in self.streams)
        variables: Any = self.network.init(key, noisy, self.conditions_of({}, {}, 1))
        return own_parameters(self.network, variables)

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters."""
        return unbox(self._boxed(key))

    def axes(self) -> Params:
        """Logical axis names of every parameter."""
        return logical_axes(jax.eval_shape(self._boxed, jax.random.key(0)))

    def conditions_of(
        self, params: Params, given: dict[str, Any], count: int, keys: Keys | None = None, complete: bool = False
    ) -> tuple[ConditionInput, ...]:
        """The network's conditions for `count` examples; an absent field is null.

        Features that are given are read as they are; other encodings are made by the stages in `params`. The noise of
        their padding is drawn by `keys`, and with `complete` what a text leaves out (`stages.Completes`).
        """
        fresh = tuple(one for one in self.reads if _encoding(one, given) is None)
        given = given | empties(fresh, params, given, count)
        made, reads = encodings(fresh, params, given, keys if complete else None), list(enumerate(self.reads))
        own = [None if keys is None or not c.padding_noise else _folded(_folded(keys, PADDING), i) for i, c in reads]
        return tuple(c.shown(given, count, _encoding(c, given | made), own[i]) for i, c in reads)

    def call(
        self, params: Params, noisy: tuple[NoisyInput, ...], conditions: tuple[ConditionInput, ...],
        capture: tuple[str, ...] = (), layout: Layout | None = None,
    ) -> tuple[dict[str, Array], dict[str, Any]]:  # fmt: skip
        """The network's raw output per stream, and what was captured."""
        found: Any = self.network.apply({"params": own(params)}, noisy, conditions, layout=layout, capture=capture)
        return check_outputs(self.network, noisy, found, capture, layout)

    # ---- training -------------------------------------------------------------------------------------------------

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """Loss terms per example; metrics hold the loss by time bin (`loss_by_time`, sums and weights `[bins]`)."""
        slots = jax.vmap(lambda slot: jax.random.fold_in(key, slot))(batch["slot"])
        rows = len(batch["slot"])
        turned = jax.vmap(lambda k: jax.random.bernoulli(k))(_folded(slots, FLIP)) if self.flip else None
        conditions = self._dropped(self.conditions_of(params, batch, rows, slots), slots, turned, params)
        drawn = self._noised(params, batch, slots, turned)
        conditions = controlled(self, conditions, lambda: self.streams[0].process.unit_time(drawn[0].t))
        guesses = guesses_of(self.network)
        captured = (*captures(self.align), *guesses)
        outputs, seen = self.call(params, tuple(d.shown for d in drawn), conditions, captured)
        terms: Terms = {}
        metrics: Terms = {}
        for stream, one in zip(self.streams, drawn, strict=True):
            inside = _inside(stream, batch, turned)
            weight = jnp.ones(rows) if one.clean is None else 1.0 - one.clean
            found = losses_of(stream, one, inside, outputs[stream.label])
            named = {self._term(stream, name): (value, weight) for name, value in found.items()}
            for guess in guesses:
                earlier = losses_of(stream, one, inside, seen[guess])
                named |= {f"{guess}_{name}": (value, weight) for name, value in earlier.items()}
            check_names("Loss terms", [*terms, *named])
            terms |= named
            where = "loss_by_time" + (f"/{stream.label}" if self.term_names else "")
            metrics[where] = self._by_time(stream.process, one.t, sum(found.values()), one.clean)
        return terms | aligned(self, params, batch, turned, seen), {}, metrics

    def _term(self, stream: Stream, name: str) -> str:
        if not self.term_names:
            return name
        return stream.label if name == "mse" else f"{stream.label}_{name}"

    def _by_time(self, process: Process, t: Array, total: Any, clean: Array | None) -> tuple[Array, Array]:
        bins = jnp.clip((process.unit_time(t) * self.time_bins).astype(jnp.int32), 0, self.time_bins - 1)
        one_hot = jax.nn.one_hot(bins, self.time_bins)
        one_hot = one_hot if clean is None else jnp.where(clean[:, None], 0.0, one_hot)
        return jnp.matmul(total, one_hot, precision=EXACT), one_hot.sum(0)

    def _noised(self, params: Params, batch: Batch, slots: Keys, turned: Bool[Array, "b"] | None) -> list[Noised]:
        clocks: dict[str, tuple[Array, Any]] = {}
        for j, stream in enumerate(self.streams):
            if not stream.time:
                t = stream.process.draw_times(_folded(slots, _purpose(j, TIME)))
                ends = _folded(slots, _purpose(j, ENDS)) if stream.ends else None
                clocks[stream.label] = t, None if ends is None else jax.vmap(lambda k: jax.random.uniform(k))(ends)
        found = []
        for j, stream in enumerate(self.streams):
            keys = _folded(slots, _purpose(j, LATENT)) if stream.latents else None
            x0 = in_space(stream, params, batch, keys, turned)
            if noise := getattr(stream.modality, "border_noise", 0.0):
                keys = _folded(slots, _purpose(j, PADDING))
                x0 = with_border_noise(x0, _inside(stream, batch, turned), noise, keys)
            eps = jax.vmap(lambda k, x0=x0: jax.random.normal(k, x0.shape[1:]))(_folded(slots, _purpose(j, NOISE)))
            found.append(noised(stream, x0, eps, *clocks[stream.clock]))
        return found

    def _dropped(
        self, conditions: tuple[ConditionInput, ...], slots: Keys, turned: Bool[Array, "b"] | None,
        params: Params | None = None,
    ) -> tuple[ConditionInput, ...]:  # fmt: skip
        if not conditions:
            return ()
        every = jax.vmap(lambda k: jax.random.bernoulli(k, self.drop_all))(_folded(slots, DROP_ALL))
        some: Bool[Array, "b l"] = jax.vmap(self._random_subset)(_folded(slots, DROP_SOME))
        lost = every[:, None] | some
        for i, condition in enumerate(self.reads):
            if condition.drop:
                keys = _folded(_folded(slots, DROP_OWN), i)
                own = jax.vmap(lambda k, p=condition.drop: jax.random.bernoulli(k, p))(keys)
                lost = lost.at[:, i].set(lost[:, i] | own)
        if turned is not None:
            conditions = tuple(
                c._replace(value=mirrored(c.value, turned)) if c.form.kind == "map" else c for c in conditions
            )
        conditions = drop(conditions, lost)
        if params is None or all(shown.form.null != "empty" for shown in conditions):
            return conditions
        return emptied(conditions, self.conditions_of(params, {}, len(slots), slots), lost)

    def _random_subset(self, key: Array) -> Bool[Array, "l"]:
        """The dropped conditions of an example: each with probability u, u uniform, so every size is as likely."""
        chosen, share, each = jax.random.split(key, 3)
        dropped = jax.random.uniform(each, (len(self.reads),)) < jax.random.uniform(share)
        return jax.random.bernoulli(chosen, self.drop_some) & dropped

    # ---- sampling -------------------------------------------------------------------------------------------------

    def request(self, given: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See `Model`; `negative.FIELD` is what guidance points away from, in the place of an absent condition."""
        fields = {c.source.name for c in self.reads}
        for name in (name.removeprefix(NEGATIVE) for name in given if name.startswith(NEGATIVE)):
            if name not in fields:
                known = ", ".join(sorted(fields)) or "none"
                raise UserError(f"{NEGATIVE}{name}: {name!r} is no condition of this model; it has {known}.")
        return super().request(tuple(name for name in given if not name.startswith(NEGATIVE)), wanted)

    def check_plan(self, plan: SamplingPlan) -> None:
        """See `ChecksPlan`."""
        super().check_plan(plan)
        generation.check_axes(self, plan)

    def generate(
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan
    ) -> dict[str, Num[Array, "b ..."]]:
        """{field: samples in model space}, one per key. `given` holds prepared arrays, one row per sample."""
        _, wanted = self.request(tuple(given), tuple(wanted))
        return generation.generate(self, params, given, wanted, keys, plan)

    def sampling(
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan
    ) -> generation.Sampling:
        """The arguments with which `generate` calls the sampler, for a custom sampler."""
        _, wanted = self.request(tuple(given), tuple(wanted))
        return generation.sampling(self, params, given, wanted, keys, plan)


def _encoding(one: Condition, given: dict[str, Any]) -> Encoded | None:
    """The encoding of a condition that is given, as the batch or a stage has it."""
    there = one.source.name in given
    return encoding_given(one.encoder, one.source, one.part, given) if there and one.encoder is not None else None


def _inside(stream: Stream, batch: Batch, turned: Bool[Array, "b"] | None) -> Bool[Array, "b ..."] | None:
    """What `inside_of` says, mirrored as the examples are."""
    inside = inside_of(stream.modality, batch)
    return inside if inside is None or turned is None else mirrored(inside, turned)


def _purpose(j: int, purpose: int) -> int:
    """A purpose of stream j; that of the first stream is unchanged."""
    if purpose == PADDING:
        return BORDERS + j
    return purpose if j == 0 else OTHERS + 4 * j + (NOISE, TIME, ENDS, LATENT).index(purpose)


def _folded(keys: Keys, purpose: int) -> Keys:
    return jax.vmap(lambda k: jax.random.fold_in(k, purpose))(keys)
