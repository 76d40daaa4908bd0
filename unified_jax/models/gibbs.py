"""Gibbs chains over the fields of a model of several streams (`samplers.gibbs`): image to text to image, and on."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.errors import UserError
from unified_jax.models.around import Around
from unified_jax.models.base import Declared, Terms
from unified_jax.models.boxed import Wraps
from unified_jax.samplers.gibbs import Conditional, State, gibbs
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.typing import Batch, Keys, Params


def blocked_gibbs(
    model: Any,
    params: Params,
    given: dict[str, Array],
    fields: tuple[str, ...],
    keys: Keys,
    plan: SamplingPlan,
    rounds: int,
) -> tuple[State, State]:
    """(prepared fields after `rounds` rounds, after each); in a round every field is sampled, given the others.

    `given` holds prepared arrays, one row per key: of all fields but the first, which is drawn before it is read, and
    of any further conditions, which stay. Raises UserError for fields that the model cannot both read and make.
    """
    for name in fields:
        if name not in model.givable or name not in model.wantable:
            both = [one for one in model.wantable if one in model.givable]
            raise UserError(f"A Gibbs chain reads and makes its fields: {', '.join(both) or 'none'}; found {name!r}.")
    if len(fields) < 2 or len(set(fields)) < len(fields) or rounds < 1:
        raise UserError(f"A Gibbs chain needs two fields or more, each once, and a round; found {fields}, {rounds}.")
    if missing := [name for name in fields[1:] if name not in given]:
        raise UserError(f"A Gibbs chain starts from {', '.join(fields[1:])}; give {', '.join(missing)}.")
    by_name = {one.name: one for one in model.modalities}

    def conditional(name: str) -> Conditional:
        def draw(others: State, mine: Keys) -> Array:
            made = model.generate(params, others, (name,), mine, plan)[name]
            return by_name[name].to_prepared(made)

        return draw

    blank = jnp.broadcast_to(by_name[fields[0]].blank(), (len(keys), *by_name[fields[0]].blank().shape))
    state = {fields[0]: blank} | {name: jnp.asarray(value) for name, value in given.items()}
    return gibbs({name: conditional(name) for name in fields}, state, keys, rounds)


@dataclass(frozen=True)
class GibbsChain(Around, Wraps, Declared):
    """A model that is sampled by chains: all fields are wanted, all but the first are where the chain starts.

    One round over (a, b) from a given b is b -> a -> b: a variation that keeps what a says of b.
    """

    model: Any
    """The model of several streams."""
    fields: tuple[str, ...]
    """What is drawn, in this order in every round."""
    rounds: int = 1
    """Rounds over all fields."""

    @property
    def wantable(self) -> tuple[str, ...]:
        """The fields of the chain."""
        return self.fields

    def request(self, given: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What is given and wanted, all fields by default: a field may be both. `blocked_gibbs` checks it."""
        if others := [name for name in wanted if name not in self.fields]:
            raise UserError(f"{others[0]!r} is no field of this chain, which draws {', '.join(self.fields)}.")
        return given, wanted or self.fields

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """The model's: a chain is another way to sample it."""
        return self.model.losses(params, aux, batch, key)

    def generate(
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan
    ) -> dict[str, Array]:
        """The wanted fields after the last round, in model space."""
        end, _ = blocked_gibbs(self.model, params, given, self.fields, keys, plan, self.rounds)
        by_name = {one.name: one for one in self.model.modalities}
        return {name: by_name[name].to_model(end[name]) for name in wanted}
