r"""The train step: one pure function from state and batch to state and metrics.

The loss of a batch is sum_k w_k S_k / W_k over the terms k, where S_k and W_k are sums over all rows of all
microbatches and devices and w_k are the balance's weights: sums are added up and divided once, a mean of means is
never taken. With gradient accumulation the W_k are needed before the first gradient; they are computed in a pass of
their own, from which the compiler removes the network.

A step whose loss or gradient is not finite changes nothing but the step count; the metric `finite` tells the loop,
which skips or stops by the experiment's policy. The learning rate goes by the step count: a skipped step uses up its
place in the schedule, which so ends with the run, and the metric `lr` is what was applied. Moments and their bias
corrections go by the updates that were made.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from unified_jax.models.base import Model, Terms
from unified_jax.sharding import constrain
from unified_jax.training.balancing import Balance
from unified_jax.training.ema import Ema
from unified_jax.training.optimizer import Optimization, at_step
from unified_jax.training.state import State
from unified_jax.typing import Batch, Params


class Optimizer(NamedTuple):
    """What a step does with a gradient: static, hashable."""

    config: Optimization
    ema: tuple[Ema, ...]
    steps: int
    accumulate: int = 1

    @property
    def transform(self) -> optax.GradientTransformation:
        """The optax transformation."""
        return self.config.transform(self.steps)


def init_state(model: Model, optimizer: Optimizer, balance: Balance, key: Array) -> State:
    """A fresh state; every average starts at the parameters."""
    params = model.init(key)
    ema = tuple(params for _ in optimizer.ema)
    weights = balance.init(tuple(sorted(model.terms)))
    return State(jnp.zeros((), jnp.int32), params, ema, optimizer.transform.init(params), {}, weights)


def train_step(
    model: Model,
    optimizer: Optimizer,
    balance: Balance,
    state: State,
    frozen: Params,
    batch: Batch,
    key: Array,
) -> tuple[State, dict[str, Array]]:
    """One step.

    `key` is the run's key; the step's own is folded from it and `state.step`. `frozen` is never changed.
    """
    key = jax.random.fold_in(key, state.step)
    value, gradient, each, terms, aux, extra = _loss_and_gradient(model, optimizer, balance, state, frozen, batch, key)
    gradient, weights = balance.settle(state.balance, in_order(terms), gradient, each, key)
    extra |= shown_weights(balance, state, terms)
    return update(optimizer, state, value, gradient, terms, aux, weights, extra)


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
    """The state and metrics after a step with this loss, gradient, loss terms, state of the balance, and metrics."""
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(value) & jnp.isfinite(norm)
    # A branch, not a choice leaf by leaf, which would read and write the whole state once more.
    new = jax.lax.cond(finite, lambda: _updated(optimizer, state, gradient, aux, weights), lambda: state)
    metrics = {"loss": value, **{f"loss/{name}": term for name, term in terms.items()}, **extra}
    metrics |= {"lr": jnp.asarray(optimizer.config.rate(optimizer.steps)(state.step), jnp.float32)}
    metrics |= {"grad_norm": norm, "param_norm": optax.tree.norm(new.params), "finite": finite}
    return dataclasses.replace(new, step=state.step + 1), metrics


def _updated(optimizer: Optimizer, state: State, gradient: Params, aux: Any, weights: Any) -> State:
    """The state after this gradient, but for the step count."""
    updates: Any
    before = at_step(state.opt_state, state.step)
    updates, opt_state = optimizer.transform.update(gradient, before, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    ema = tuple(e.update(average, params, state.step) for e, average in zip(optimizer.ema, state.ema, strict=True))
    return State(state.step, params, ema, opt_state, aux, weights)


def example_losses(model: Model, state: State, frozen: Params, batch: Batch, key: Array) -> dict[str, Array]:
    """Loss `[b]` of every example of the batch of step `state.step`, as that step saw it: what --replay looks at."""
    terms, _, _ = model.losses({**frozen, **state.params}, state.aux, batch, jax.random.fold_in(key, state.step))
    return {name: total / jnp.maximum(weight, 1e-9) for name, (total, weight) in terms.items()}


def _loss_and_gradient(
    model: Model, optimizer: Optimizer, balance: Balance, state: State, frozen: Params, batch: Batch, key: Array
) -> tuple[Array, Params, Params, dict[str, Array], Any, dict[str, Array]]:
    """(loss, gradient, each term's gradient of what the balance watches, unweighted terms, aux, extra metrics), each
    divided once.
    """
    micro = _split(batch, optimizer.accumulate)

    def run(params: Params, aux: Any, rows: Batch) -> tuple[dict[str, Array], dict[str, Array], Any, Terms]:
        terms, aux, extra = model.losses({**frozen, **params}, aux, rows, key)
        sums = {name: jnp.sum(total) for name, (total, _) in terms.items()}
        return sums, {name: jnp.sum(weight) for name, (_, weight) in terms.items()}, aux, extra

    def add_weights(total: dict[str, Array], rows: Batch) -> tuple[dict[str, Array], None]:
        return jax.tree.map(jnp.add, total, run(state.params, state.aux, rows)[1]), None

    shapes = jax.eval_shape(lambda rows: run(state.params, state.aux, rows), jax.tree.map(lambda x: x[0], micro))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    weights, _ = jax.lax.scan(add_weights, zeros[1], micro)
    divisor = {name: jnp.where(weight > 0, weight, 1.0) for name, weight in weights.items()}  # a term may be absent
    scale = {name: w / divisor[name] for name, w in balance.weigh(state.balance, tuple(weights)).items()}

    def weighted(params: Params, aux: Any, rows: Batch) -> tuple[Array, Any]:
        sums, _, aux, extra = run(params, aux, rows)
        return jnp.stack([scale[name] * sums[name] for name in sorted(sums)]), (sums, aux, extra)

    def differentiate(aux: Any, rows: Batch) -> tuple[Any, Any]:
        def objective(params: Params) -> tuple[Array, Any]:
            parts, rest = weighted(params, aux, rows)
            return jnp.sum(parts), rest

        (value, (sums, aux_after, extra)), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
        each = _each_gradient(lambda some: weighted({**state.params, **some}, aux, rows)[0], watched, len(sums))
        return (gradient, each, value, sums, extra), aux_after

    watched = balance.watched(state.params)
    if optimizer.accumulate == 1:
        found, aux = differentiate(state.aux, jax.tree.map(lambda x: x[0], micro))
    else:

        def accumulate(carry: Any, rows: Batch) -> tuple[Any, None]:
            found, aux = differentiate(carry[1], rows)
            return (jax.tree.map(jnp.add, carry[0], found), aux), None

        each = jax.tree.map(lambda x: jnp.zeros((len(weights), *x.shape)), watched)
        start = (jax.tree.map(jnp.zeros_like, state.params), each, jnp.zeros(()), zeros[0], zeros[3])
        (found, aux), _ = jax.lax.scan(accumulate, (start, state.aux), micro)
    gradient, each, value, sums, extra = found
    terms = {name: total / divisor[name] for name, total in sums.items()}
    return value, gradient, each, terms, aux, {name: total / weight for name, (total, weight) in extra.items()}


def _each_gradient(weighted: Callable[[Params], Array], watched: Params, count: int) -> Params:
    """Gradient `[n, ...]` of every term by the watched parameters: one forward pass, one backward pass a term."""
    if not jax.tree.leaves(watched):
        return {}
    _, pull = jax.vjp(weighted, watched)
    return jax.lax.map(lambda chosen: pull(chosen)[0], jnp.eye(count))


def _split(batch: Batch, parts: int) -> Batch:
    """`[b, ...]` to `[parts, b / parts, ...]`; row i of every part goes to the same device as before."""

    def leaf(x: Array) -> Array:
        x = x.reshape((x.shape[0] // parts, parts) + x.shape[1:]).swapaxes(0, 1)
        return constrain(x, None, "batch", *(None,) * (x.ndim - 2))

    return jax.tree.map(leaf, batch)
