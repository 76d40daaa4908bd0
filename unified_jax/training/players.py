r"""Several players in one step: a generator and its discriminator, a student and its fake teacher.

Player p trains a part theta_p of the parameters on some of the loss terms. In a step they are updated in order, each
against the updated parameters of those before it:

    theta_p <- update_p(theta_p, d / d theta_p sum_k w_k S_k / W_k),    at theta_1' .. theta_{p-1}', theta_p ..

Sums are added up over microbatches and divided once, as in `training.step`. If any player's loss or gradient is not
finite, the step changes only the step count. The state has `opt_state = {player: its optimizer state}`; EMAs are
updated with all parameters after the last player. Statistics of aux come from the first player's pass.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from unified_jax.errors import UserError
from unified_jax.interop.names import flatten, unflatten
from unified_jax.models.base import Model, Player
from unified_jax.training.balancing import Balance, FixedBalance
from unified_jax.training.optimizer import at_step
from unified_jax.training.state import State
from unified_jax.training.step import Optimizer, add_up, averages, losses_of, scales, split, train_step
from unified_jax.typing import Batch, Params


class Turn(NamedTuple):
    """The result of a player's update."""

    params: Params
    """All parameters, its own updated."""
    opt_state: Any
    value: Array
    norm: Array
    terms: dict[str, Array]
    statistics: Any
    extra: dict[str, Array]


def merged(params: Params, part: Params) -> Params:
    """The tree with a part replaced."""
    return unflatten(flatten(params) | flatten(part))


def step_of(model: Model) -> Callable[..., tuple[State, dict[str, Array]]]:
    """The step function of this model: (model, optimizer, balance, state, frozen, batch, key) -> (state, metrics)."""
    return play if model.players else train_step


def play(
    model: Model, optimizer: Optimizer, balance: Balance, state: State, frozen: Params, batch: Batch, key: Array
) -> tuple[State, dict[str, Array]]:
    """One step of all players; replaces `train_step`."""
    key = jax.random.fold_in(key, state.step)
    micro = split(batch, optimizer.accumulate)
    params, moments, turns = state.params, {}, []
    for player in model.players:

        def turn(params: Params = params, player: Player = player) -> Turn:
            return _turn(model, optimizer, balance, player, state, params, frozen, micro, key)

        # Both branches of the cond need one shape: an idle turn is zeros with the old parameters and moments.
        idle = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(turn))
        idle = idle._replace(params=params, opt_state=state.opt_state[player.name])
        plays = (state.step >= player.start) & ((state.step - player.start) % player.every == 0)
        always = player.start == 0 and player.every == 1
        # A player of every step needs no branch.
        found: Turn = turn() if always else jax.lax.cond(plays, turn, lambda idle=idle: idle)
        params, moments[player.name] = found.params, found.opt_state
        turns.append(found)
    return _settled(model, optimizer, state, params, moments, turns)


def _turn(
    model: Model, optimizer: Optimizer, balance: Balance, player: Player, state: State, params: Params, frozen: Params,
    micro: Batch, key: Array,
) -> Turn:  # fmt: skip
    run, mine = losses_of(model, state, frozen, key), player.own(params)
    divisor, scale = scales(balance, state, add_up(lambda rows: run(params, rows).weights, micro))

    def part(rows: Batch) -> Any:
        def objective(mine: Params) -> tuple[Array, Any]:
            sums = run(merged(params, mine), rows)
            return jnp.sum(jnp.stack([scale[name] * sums.totals[name] for name in player.terms])), sums

        return jax.value_and_grad(objective, has_aux=True)(mine)

    (value, sums), gradient = add_up(part, micro)
    # Schedules count steps, not this player's updates.
    before = at_step(state.opt_state[player.name], state.step)
    updates, opt_state = optimizer.of(player).transform.update(gradient, before, mine)
    updated: Any = optax.apply_updates(mine, updates)
    terms = {name: sums.totals[name] / divisor[name] for name in player.terms}
    return Turn(
        merged(params, updated), opt_state, value, optax.tree.norm(gradient), terms, sums.statistics,
        averages(sums.extra),
    )  # fmt: skip


def _settled(
    model: Model, optimizer: Optimizer, state: State, params: Params, moments: dict[str, Any], turns: list[Turn]
) -> tuple[State, dict[str, Array]]:
    value = jnp.sum(jnp.stack([turn.value for turn in turns]))
    norm = jnp.sqrt(jnp.sum(jnp.stack([turn.norm**2 for turn in turns])))
    finite = jnp.isfinite(value) & jnp.isfinite(norm)
    aux = model.settle_aux(state.aux, turns[0].statistics)

    def updated() -> State:
        ema = tuple(e.update(average, params, state.step) for e, average in zip(optimizer.ema, state.ema, strict=True))
        return State(state.step, params, ema, moments, aux, state.balance)

    # One decision for all players: a NaN of one discards the updates of all.
    new = jax.lax.cond(finite, updated, lambda: state)
    metrics = {"loss": value, "grad_norm": norm, "param_norm": optax.tree.norm(new.params), "finite": finite}
    metrics |= turns[0].extra
    for player, turn in zip(model.players, turns, strict=True):
        metrics |= {f"loss/{name}": term for name, term in turn.terms.items()}
        rate = optimizer.of(player).config.rate(optimizer.steps)(state.step)
        metrics |= {f"grad_norm/{player.name}": turn.norm, f"lr/{player.name}": jnp.asarray(rate, jnp.float32)}
    metrics["lr"] = metrics[f"lr/{model.players[0].name}"]
    return dataclasses.replace(new, step=state.step + 1), metrics


def check_players(model: Model, balance: Balance, params: Params, strict: bool) -> None:
    """Raises UserError for inconsistent players, before compilation."""
    names, paths, terms = [p.name for p in model.players], list(flatten(params)), set(model.terms)
    if len(set(names)) != len(names):
        raise UserError(f"Players need distinct names, found {', '.join(names)}.")
    if not isinstance(balance, FixedBalance) or strict:
        raise UserError("A model with players trains with constant weights (FixedBalance) and --reduction fast.")
    first = model.players[0]
    if first.start or first.every != 1:
        raise UserError(
            f"The first player, {first.name!r}, must play every step: set start=0 and every=1, or reorder the players."
        )
    owners: dict[str, str] = {}
    for player in model.players:
        mine = [path for path in paths if player.owns(path)]
        if not mine:
            known = ", ".join(paths)
            raise UserError(f"The player {player.name!r} trains nothing: {player.trains} matches none of {known}.")
        if unknown := sorted(set(player.terms) - terms):
            raise UserError(f"The player {player.name!r} names the terms {unknown}; this model has {sorted(terms)}.")
        for one in (*mine, *(f"the term {term}" for term in player.terms)):
            if one in owners:
                raise UserError(f"{one} is trained by two players, {owners[one]!r} and {player.name!r}.")
            owners[one] = player.name
    if idle := sorted({*paths, *(f"the term {term}" for term in terms)} - set(owners)):
        raise UserError(f"No player trains {', '.join(idle)}.")
