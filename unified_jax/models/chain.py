"""Chains: models that run one after another, each on what is given and on what those before it made.

Cascades (a small image, then a large one of it), a prior before a decoder, a captioner behind a model of images. A
chain trains nothing and has no parameters of its own: its links' models are its stages (`models.stages`).

Random numbers: a link's sample of key k has the key fold_in(k, crc32 of the link's name). So a link adds no draws to
those of another, and a sample of a chain is that of its models, called one by one with these keys. Between two links an
array has the form that a file has (`to_prepared`): an image is rounded to 8 bits, as if it were saved and given.
"""

import functools
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from unified_jax.config import lacking
from unified_jax.errors import UserError
from unified_jax.modalities.conditions import NEGATIVE
from unified_jax.modalities.label import Label
from unified_jax.models.base import Declared, Model, Terms, check_plan
from unified_jax.models.links import Wire, check_order, fields_of, wired
from unified_jax.models.stages import START, Stage, stage_params
from unified_jax.precision import same_numbers
from unified_jax.processes.targets import expand
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.typing import Batch, Keys, Params


@dataclass(frozen=True)
class Link:
    """One model of a chain."""

    stage: Stage
    """The model and its parameters (`uj.stage` takes them from a run); its name is the link's."""
    plan: SamplingPlan | None = None
    """Its sampler settings; None: those of the request."""
    takes: tuple[tuple[str, str], ...] = ()
    """Pairs (field of the chain, the model's field) for fields with another name in the chain. A field that the model
    both reads and makes is only read if an earlier link makes it and it is named here."""

    def __post_init__(self) -> None:
        model, name = self.stage.model, self.stage.name
        if model is None or self.stage.source == START:
            raise ValueError(f"The link {name!r} needs a trained model: uj.stage({name!r}, RUN) takes it from a run.")
        if words := lacking(type(model), Model):
            raise ValueError(f"The link {name!r} is no model that samples: {words}.")
        for side in (0, 1):
            names = [pair[side] for pair in self.takes]
            if twice := sorted({one for one in names if names.count(one) > 1}):
                raise ValueError(f"The link {name!r} takes {twice[0]!r} twice; name each field once on either side.")
        if self.plan is not None:
            with same_numbers():
                check_plan(self.model, self.plan)

    @property
    def name(self) -> str:
        """Its stage's."""
        return self.stage.name

    @property
    def model(self) -> Any:
        """Its stage's."""
        return self.stage.model


class Turn(NamedTuple):
    """A link that a request needs."""

    link: Link
    reads: dict[str, str]
    """Field of the chain -> the model's field, of all conditions that it can be given."""
    makes: dict[str, str]
    """The same of what it has to make."""


@dataclass(frozen=True)
class Chain(Declared):
    """Models in a row; a model itself, which a further chain can hold."""

    links: tuple[Link, ...]
    """The models, in order."""

    def __post_init__(self) -> None:
        names = [link.name for link in self.links]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"A chain needs links, each with a name of its own; found {', '.join(names) or '()'}.")
        check_order(self.wires)
        _ = self.fields

    @functools.cached_property
    def wires(self) -> tuple[Wire, ...]:
        """What each link reads and makes, by the chain's names."""
        return wired(self.links)

    @functools.cached_property
    def fields(self) -> dict[str, Any]:
        """The modalities under the chain's names: of the link that makes a field, else of the first that reads it."""
        return fields_of(self.links, self.wires)

    @property
    def modalities(self) -> tuple[Any, ...]:
        """Those of all links."""
        return tuple(self.fields.values())

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The links' models."""
        return tuple(link.stage for link in self.links)

    @property
    def processes(self) -> tuple[Any, ...]:
        """Those of the links without a plan of their own, which the request's plan must suit."""
        return tuple(process for link in self.links if link.plan is None for process in link.model.processes)

    @property
    def wantable(self) -> tuple[str, ...]:
        """What the links make."""
        return tuple(name for wire in self.wires for name in wire.makes)

    @property
    def givable(self) -> tuple[str, ...]:
        """The links' conditions, and what they make: a given output replaces the link."""
        return tuple(dict.fromkeys(name for wire in self.wires for name in (*wire.reads, *wire.makes)))

    @property
    def results(self) -> tuple[str, ...]:
        """What is made and read by no later link."""
        return tuple(name for name in self.wantable if not self._read_later(name))

    def _read_later(self, name: str) -> bool:
        return any(name in wire.reads and name not in wire.makes for wire in self.wires)

    @property
    def terms(self) -> tuple[str, ...]:
        """(): a chain trains nothing."""
        return ()

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """Raises UserError: a chain trains nothing."""
        raise UserError("A chain trains nothing: its links are trained runs, each with losses of its own.")

    def init(self, key: Array) -> Params:
        """{}: it has no parameters of its own."""
        del key
        return {}

    def axes(self) -> Params:
        """{}."""
        return {}

    def request(self, given: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """As `Declared`; by default the `results` are wanted. `negative.FIELD` goes to all links that read it."""
        plain = tuple(name for name in given if not name.startswith(NEGATIVE))
        if not given and not wanted:
            plain = tuple(name for name in self.givable if name not in self.wantable)
        plain, wanted = super().request(plain, wanted or tuple(name for name in self.results if name not in plain))
        turns = self.turns(plain, wanted)
        for name in (name.removeprefix(NEGATIVE) for name in given if name.startswith(NEGATIVE)):
            if not any(name in turn.reads for turn in turns):
                known = ", ".join(dict.fromkeys(one for turn in turns for one in turn.reads)) or "nothing"
                raise UserError(f"{NEGATIVE}{name}: the links of this request read {known}, not {name!r}.")
        return plain, wanted

    def check_plan(self, plan: SamplingPlan) -> None:
        """See `ChecksPlan`: links that have no plan of their own follow this one."""
        for link in self.links:
            if link.plan is None:
                check_plan(link.model, plan)

    def turns(self, given: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[Turn, ...]:
        """The links that a request needs, in order."""
        needed, found = list(wanted), []
        for i in reversed(range(len(self.links))):
            wire = self.wires[i]
            makes = {name: wire.makes[name] for name in needed if name in wire.makes}
            if makes:
                found.append(Turn(self.links[i], wire.reads, makes))
                before = {name for earlier in self.wires[:i] for name in earlier.makes}
                needed += [n for n in wire.reads if n in before and n not in (*given, *needed)]
        return tuple(found[::-1])

    def generate(
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan
    ) -> dict[str, Array]:
        """See `Model`; only the links that the wanted fields need run.

        A sample is NaN where one that it was made from is not finite: rounding to 8 bits would hide that.
        """
        plain, wanted = self.request(tuple(given), tuple(wanted))
        turns, made = self.turns(plain, wanted), {}
        known = dict(given) | self._drawn_labels(turns, given, keys, plan)
        lost = jnp.zeros((len(keys),), bool)
        for turn in turns:
            found = _run(turn, params, known, keys, plan)
            for name, value in found.items():
                if jnp.issubdtype(value.dtype, jnp.floating):
                    value = jnp.where(expand(lost, value), jnp.nan, value)
                    lost = lost | ~jnp.all(jnp.isfinite(value), axis=tuple(range(1, value.ndim)))
                made[name] = value
                if self._read_later(name):
                    known[name] = self.fields[name].to_prepared(value)
        return {name: made[name] for name in wanted}

    def _drawn_labels(
        self, turns: tuple[Turn, ...], given: dict[str, Array], keys: Keys, plan: SamplingPlan
    ) -> dict[str, Array]:
        """Labels that are left out and that a link's plan completes: drawn once, for all links that read them."""
        made = {name for turn in turns for name in turn.makes}
        asked = [name for turn in turns if (turn.link.plan or plan).complete for name in turn.reads]
        drawn: dict[str, Array] = {}
        for name in dict.fromkeys(asked):
            label: Any = self.fields[name]
            if name in made or not isinstance(label, Label):
                continue
            classes = jax.vmap(lambda key, k=label.classes: jax.random.randint(key, (), 0, k))(link_keys(keys, name))
            there = given.get(name)
            drawn[name] = classes if there is None else jnp.where(there == label.null, classes, there)
        return drawn

    def sampling(self, *_: Any) -> NoReturn:
        """Raises UserError: a chain has a denoiser for each link."""
        raise UserError("A chain has no single denoiser: open the run of one of its links.")


def link_keys(keys: Keys, name: str) -> Keys:
    """The keys of a link's samples, or of a label's draws, from the keys of the chain's."""
    number = np.uint32(zlib.crc32(name.encode()))
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _run(turn: Turn, params: Params, known: dict[str, Array], keys: Keys, plan: SamplingPlan) -> dict[str, Array]:
    """What a link makes, by the chain's names. Raises UserError as its model does, with the link's name."""
    link = turn.link
    given = {
        prefix + own: known[prefix + ours]
        for prefix in ("", NEGATIVE)
        for ours, own in turn.reads.items()
        if prefix + ours in known
    }
    own, wanted = stage_params(params, link.name), tuple(turn.makes.values())
    try:
        made = link.model.generate(own, given, wanted, link_keys(keys, link.name), link.plan or plan)
    except UserError as error:
        renamed = [f" Its {own!r} is the chain's {ours!r}." for ours, own in turn.reads.items() if ours != own]
        raise UserError(f"The link {link.name!r}: {error}{''.join(renamed)}") from error
    return {ours: made[own] for ours, own in turn.makes.items()}
