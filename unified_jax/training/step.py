r"""The train step: one pure function from state and batch to state and metrics.

The loss of a batch is sum_k w_k S_k / W_k over the terms k, where S_k and W_k are sums over all rows of all
microbatches and devices and w_k are the balance's weights. Sums are added up and divided once; there is no mean of
means. With gradient accumulation the W_k are needed before the first gradient. A first pass computes them, from
which the compiler removes the network.

A step whose loss or gradient is not finite changes only the step count; the metric `finite` tells the loop,
which skips or stops by the experiment's policy. The learning rate follows the step count: a skipped step uses up its
place in the schedule, which therefore ends with the run; the metric `lr` is the applied rate. Moments and their bias
corrections count the applied updates.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from unified_jax.models.base import Model, Player, Terms
from unified_jax.models.stages import merged
from unified_jax.sharding import constrain
from unified_jax.training.algorithms import Stacked
from unified_jax.training.balancing import Balance
from unified_jax.training.ema import Ema
from unified_jax.training.optimizer import Optimization, at_step
from unified_jax.training.state import State
from unified_jax.typing import Batch, Params


class Optimizer(NamedTuple):
    """The optimizer and the EMAs of a step: static, hashable."""

    config: Optimization
    ema: tuple[Ema, ...]
    steps: int
    accumulate: int = 1
    stacked: Stacked = ()

    @property
    def transform(self) -> optax.GradientTransformation:
        """The optax transformation."""
        return self.config.transform(self.steps, self.stacked)

    def of(self, player: Player) -> "Optimizer":
        """The player's own optimizer, or this one."""
        return self._replace(config=player.optimizer or self.config)

    def init(self, model: Model, params: Params) -> Any:
        """A fresh state of the transformation, or {player: its state} (`training.players`)."""
        if not model.players:
            return self.transform.init(params)
        return {p.name: self.of(p).transform.init(p.own(params)) for p in model.players}


class Sums(NamedTuple):
    """Sums of a model's losses over some rows."""

    totals: dict[str, Array]
    """Sum of each loss term."""
    weights: dict[str, Array]
    """Sum of its weights."""
    statistics: Any
    """Additive numbers from which the next aux is made."""
    extra: Terms
    """Metrics, (sums, weights)."""


class Part(NamedTuple):
    """The result of one microbatch, or the sum over several."""

    value: Array
    """Of the objective."""
    gradient: Params
    each: Params
    """Gradient `[n, ...]` of every term by what the balance watches."""
    sums: Sums


def init_state(model: Model, optimizer: Optimizer, balance: Balance, key: Array) -> State:
    """A fresh state; every EMA starts at the parameters."""
    params = model.init(key)
    ema = tuple(params for _ in optimizer.ema)
    weights = balance.init(tuple(sorted(model.terms)))
    return State(jnp.zeros((), jnp.int32), params, ema, optimizer.init(model, params), model.init_aux(params), weights)


def train_step(
    model: Model,
    optimizer: Optimizer,
    balance: Balance,
    state: State,
    frozen: Params,
    batch: Batch,
    key: Array,
) -> tuple[State, dict[str, Array]]:
    """One training step.

    `key` is the run's key; the step's own is folded from it and `state.step`. `frozen` is never changed.
    """
    key = jax.random.fold_in(key, state.step)
    micro = split(batch, optimizer.accumulate)
    run = losses_of(model, state, frozen, key)
    # First pass: only W_k is used, so the compiler drops the network from it.
    weights = add_up(lambda rows: run(state.params, rows).weights, micro)
    divisor, scale = scales(balance, state, weights)
    # Second pass: w_k / W_k is known, so gradients of microbatches add up to that of the batch.
    part = add_up(lambda rows: _differentiated(run, state.params, balance.watched(state.params), scale, rows), micro)
    terms = {name: total / divisor[name] for name, total in part.sums.totals.items()}
    gradient, balanced = balance.settle(state.balance, in_order(terms), part.gradient, part.each, key)
    aux = model.settle_aux(state.aux, part.sums.statistics)
    extra = averages(part.sums.extra) | shown_weights(balance, state, terms)
    return update(optimizer, state, part.value, gradient, terms, aux, balanced, extra)


def losses_of(model: Model, state: State, frozen: Params, key: Array) -> Callable[[Params, Batch], Sums]:
    """(parameters, rows) -> sums of the losses of this step, over these rows; the rows also hold the step number."""

    def run(params: Params, rows: Batch) -> Sums:
        rows = rows | {"step": state.step}
        terms, statistics, extra = model.losses(merged(params, frozen), state.aux, rows, key)
        totals = {name: jnp.sum(total) for name, (total, _) in terms.items()}
        return Sums(totals, {name: jnp.sum(weight) for name, (_, weight) in terms.items()}, statistics, extra)

    return run


def scales(balance: Balance, state: State, weights: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """(W_k, 1 where a term is absent; w_k / W_k) of the loss terms."""
    divisor = {name: jnp.where(weight > 0, weight, 1.0) for name, weight in weights.items()}
    return divisor, {name: w / divisor[name] for name, w in balance.weigh(state.balance, tuple(weights)).items()}


def _differentiated(
    run: Callable[[Params, Batch], Sums], params: Params, watched: Params, scale: dict[str, Array], rows: Batch
) -> Part:
    def weighted(params: Params) -> tuple[Array, Sums]:
        sums = run(params, rows)
        return jnp.stack([scale[name] * sums.totals[name] for name in sorted(sums.totals)]), sums

    def objective(params: Params) -> tuple[Array, Sums]:
        parts, sums = weighted(params)
        return jnp.sum(parts), sums

    (value, sums), gradient = jax.value_and_grad(objective, has_aux=True)(params)
    # Further backward passes for the terms' own gradients, only if the balance watches parameters.
    each = _each_gradient(lambda some: weighted({**params, **some})[0], watched, len(sums.totals))
    return Part(value, gradient, each, sums)


def averages(extra: Terms) -> dict[str, Array]:
    """Metrics, each divided once."""
    return {name: total / weight for name, (total, weight) in extra.items()}


def shown_weights(balance: Balance, state: State, terms: dict[str, Array]) -> dict[str, Array]:
    """Metrics `weight/NAME` of a balance that learns; constant weights are in the configuration."""
    if not jax.tree.leaves(state.balance):
        return {}
    return {f"weight/{name}": weight for name, weight in balance.weigh(state.balance, tuple(terms)).items()}


def in_order(terms: dict[str, Array]) -> Array:
    """Losses `[n]` by their sorted names."""
    return jnp.stack([terms[name] for name in sorted(terms)])


def update(
    optimizer: Optimizer, state: State, value: Array, gradient: Params, terms: Any, aux: Any, weights: Any, extra: Any
) -> tuple[State, dict[str, Array]]:
    """The state and metrics after a step, from its loss, gradient, loss terms, balance state and further metrics."""
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(value) & jnp.isfinite(norm)
    # A branch, not a select per leaf, which would read and write the state once more.
    new = jax.lax.cond(finite, lambda: _updated(optimizer, state, gradient, aux, weights), lambda: state)
    metrics = {"loss": value, **{f"loss/{name}": term for name, term in terms.items()}, **extra}
    metrics |= {"lr": jnp.asarray(optimizer.config.rate(optimizer.steps)(state.step), jnp.float32)}
    metrics |= {"grad_norm": norm, "param_norm": optax.tree.norm(new.params), "finite": finite}
    return dataclasses.replace(new, step=state.step + 1), metrics


def _updated(optimizer: Optimizer, state: State, gradient: Params, aux: Any, weights: Any) -> State:
    """The state after this gradient, except for the step count."""
    updates: Any
    before = at_step(state.opt_state, state.step)
    updates, opt_state = optimizer.transform.update(gradient, before, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    ema = tuple(e.update(average, params, state.step) for e, average in zip(optimizer.ema, state.ema, strict=True))
    return State(state.step, params, ema, opt_state, aux, weights)


def example_losses(model: Model, state: State, frozen: Params, batch: Batch, key: Array) -> dict[str, Array]:
    """Loss `[b]` of every example of the batch of step `state.step`, as that step computed it; for --replay."""
    key, rows = jax.random.fold_in(key, state.step), batch | {"step": state.step}
    terms, _, _ = model.losses(merged(state.params, frozen), state.aux, rows, key)
    return {name: total / jnp.maximum(weight, 1e-9) for name, (total, weight) in terms.items()}


def _each_gradient(weighted: Callable[[Params], Array], watched: Params, count: int) -> Params:
    """Gradient `[n, ...]` of every term by the watched parameters: one forward pass, one backward pass per term."""
    if not jax.tree.leaves(watched):
        return {}
    _, pull = jax.vjp(weighted, watched)  # pulled back along every unit vector: one row per term
    return jax.lax.map(lambda chosen: pull(chosen)[0], jnp.eye(count))


def add_up(part: Callable[[Batch], Any], micro: Batch) -> Any:
    """Sum of `part(rows)`, a tree, over the microbatches: one after the other inside a scan."""
    if jax.tree.leaves(micro)[0].shape[0] == 1:
        return part(jax.tree.map(lambda x: x[0], micro))
    # The scan needs a zero of the result's shape; eval_shape finds it without computing.
    shapes = jax.eval_shape(part, jax.tree.map(lambda x: x[0], micro))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(lambda total, rows: (jax.tree.map(jnp.add, total, part(rows)), None), zeros, micro)[0]


def split(batch: Batch, parts: int) -> Batch:
    """`[b, ...]` to `[parts, b / parts, ...]`; row i of every part goes to the same device as before."""

    def leaf(x: Array) -> Array:
        # Strided, not contiguous: so every microbatch keeps its rows on their devices.
        x = x.reshape((x.shape[0] // parts, parts) + x.shape[1:]).swapaxes(0, 1)
        return constrain(x, None, "batch", *(None,) * (x.ndim - 2))

    return jax.tree.map(leaf, batch)
