"""The interface of models for trainer, sampler and evaluator, which never check a model's class.

`Declared` is a mixin without fields that implements the defaults of most models.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from unified_jax.errors import UserError
from unified_jax.interop.names import flatten, unflatten
from unified_jax.modalities.base import Modality
from unified_jax.models.terms import terms_of
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.typing import Batch, Keys, Params

Terms = dict[str, tuple[Array, Array]]
"""Named (sum, weight) pairs; the reported value is sum / weight, divided once after all sums."""

Statistics = dict[str, Any]
"""Additive numbers, summed over microbatches, rows and devices, from which `settle_aux` computes the next aux."""

Bits = Callable[[Params, Batch, Keys, int], Float[Array, "b"]]
"""(parameters, prepared examples, keys, steps) -> bits/dim of each example."""


@dataclass(frozen=True)
class Player:
    """A part of a model with its own loss terms, trained after the players before it (`training.players`)."""

    name: str
    """Name in the metrics and in the optimizer's state."""
    trains: tuple[str, ...]
    """Patterns over parameter paths; see `Tuning.train`."""
    terms: tuple[str, ...]
    """Loss terms that it minimises."""
    optimizer: Any = None
    """An `Optimization`; None: the experiment's."""
    start: int = 0
    """First step at which it is trained."""
    every: int = 1
    """Steps between its updates."""

    def __post_init__(self) -> None:
        if not self.trains or not self.terms or self.start < 0 or self.every < 1:
            raise UserError(
                f"Player {self.name!r} needs parameters, terms, start >= 0 and every >= 1; found trains = "
                f"{self.trains}, terms = {self.terms}, start = {self.start}, every = {self.every}."
            )

    def owns(self, path: str) -> bool:
        """Whether it trains the parameter at this path."""
        return any(re.search(pattern, path) for pattern in self.trains)

    def own(self, params: Params) -> Params:
        """The part of a tree like the parameters that it trains."""
        return unflatten({path: leaf for path, leaf in flatten(params).items() if self.owns(path)})


@runtime_checkable
class Model(Protocol):
    """A generative model: frozen, hashable, pure. Derive from `Declared` for the defaults."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that a batch must hold, by field."""
        ...

    @property
    def packer(self) -> Any:
        """How a step's examples become rows (`data.packing.Packer`), or None if they are stacked."""
        ...

    @property
    def stages(self) -> tuple[Any, ...]:
        """Models beside it that are not trained (`models.stages.Stage`): their parameters are in `params["stages"]`."""
        ...

    @property
    def players(self) -> tuple[Player, ...]:
        """Parts with their own loss terms, in order (`training.players`); () for a single loss."""
        ...

    @property
    def processes(self) -> tuple[Any, ...]:
        """Processes of the denoised modalities, which a sampling plan must suit."""
        ...

    @property
    def givable(self) -> tuple[str, ...]:
        """Fields that can be conditions when sampling."""
        ...

    @property
    def wantable(self) -> tuple[str, ...]:
        """Fields that it generates; () for a model that generates nothing."""
        ...

    @property
    def bits(self) -> Bits | None:
        """Function that scores examples, or None."""
        ...

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the loss terms."""
        ...

    def request(self, given: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(given, wanted), with defaults where both are empty (previews) or `wanted` is.

        Raises UserError for an unsupported request.
        """
        ...

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters, a plain nested dict."""
        ...

    def axes(self) -> Any:
        """The same tree with a tuple of logical axis names per parameter."""
        ...

    def init_aux(self, params: Params) -> Any:
        """State other than parameters (EMA codebooks, running statistics); {} for none."""
        ...

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Statistics, Terms]:
        """({name: (sum [b], weight [b])}, statistics, metrics {name: (sums, weights)}); key is the step's."""
        ...

    def settle_aux(self, aux: Any, statistics: Statistics) -> Any:
        """The next aux, from the statistics of a step."""
        ...

    def generate(
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan
    ) -> dict[str, Array]:
        """The wanted fields in model space, one sample per key. Absent conditions are unconditional."""
        ...


@runtime_checkable
class ChecksPlan(Protocol):
    """A model that says before anything is compiled which plans it cannot be sampled with."""

    def check_plan(self, plan: SamplingPlan) -> None:
        """Raises UserError for a plan that does not suit it, whatever is asked for."""
        ...


def check_plan(model: Any, plan: SamplingPlan) -> None:
    """Raises UserError for a plan that does not suit the model's processes, or the model."""
    for process in model.processes:
        plan.prepare(process)
    if isinstance(model, ChecksPlan):
        model.check_plan(plan)


class Declared:
    """Defaults, which a model overrides."""

    modalities: tuple[Any, ...]
    packer: Any = None
    stages: tuple[Any, ...] = ()
    players: tuple[Player, ...] = ()
    opposed: tuple[str, ...] = ()
    """Loss terms against another player, which the validation loss leaves out."""
    processes: tuple[Any, ...] = ()
    givable: tuple[str, ...] = ()
    wantable: tuple[str, ...] = ()
    bits: Bits | None = None
    whole_batch: str = ""
    """Why a step needs all its rows at once, as a part of a sentence; "": sums over microbatches are those of all."""

    @property
    def terms(self) -> tuple[str, ...]:
        """From the shapes of `losses` on a batch of one row."""
        return terms_of(self)

    def request(self, given: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """By default, everything that is not given is wanted.

        Raises UserError for an unknown field, or one that is both given and wanted.
        """
        if not self.wantable:
            raise UserError(f"{type(self).__name__} generates nothing.")
        fields = tuple(dict.fromkeys((*self.givable, *self.wantable)))
        for name in (*given, *wanted):
            known = self.wantable if name in wanted else self.givable
            if name not in known:
                what = f"generates {', '.join(known)}" if name in wanted else f"is conditioned on {', '.join(known)}"
                raise UserError(f"This model {what or 'nothing'}; found {name!r}.")
        if twice := sorted({name for name in wanted if wanted.count(name) > 1}):
            raise UserError(f"{', '.join(twice)}: asked for twice; name each once.")
        if both := sorted(set(given) & set(wanted)):
            raise UserError(f"{', '.join(both)}: both given and to be generated; choose one.")
        if not given and not wanted:
            given = tuple(name for name in fields if name not in self.wantable)
        wanted = wanted or tuple(name for name in self.wantable if name not in given)
        if not wanted:
            raise UserError(f"Everything is given; leave out one of {', '.join(self.wantable)}.")
        return given, wanted

    def check_plan(self, plan: SamplingPlan) -> None:
        """See `ChecksPlan`: only Transfusion goes through other modalities."""
        if plan.through:
            raise UserError(
                f"The plan goes through {plan.through[0]!r}, which only Transfusion can: leave `through` off."
            )

    def generate(
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan
    ) -> dict[str, Array]:
        """Raises UserError; a generative model overrides it."""
        del params, given, wanted, keys, plan
        raise UserError(f"{type(self).__name__} generates nothing.")

    def init_aux(self, params: Params) -> Any:
        """{}: no state."""
        del params
        return {}

    def settle_aux(self, aux: Any, statistics: Statistics) -> Any:
        """Unchanged."""
        del statistics
        return aux
