"""Steps that are skipped: the learning rate goes by the step, what is reported is what is applied."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unified_jax.training.algorithms import Adafactor, AdamW, Lion, Muon
from unified_jax.training.optimizer import Group, Optimization, at_step
from unified_jax.training.state import State
from unified_jax.training.step import Optimizer, update

RULES = (AdamW(), Lion(), Adafactor(momentum=0.9), Muon())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("groups", [(), (Group("bias", rate=0.5),)], ids=["plain", "groups"])
def test_the_schedules_of_every_rule_go_by_the_step(rule, groups):
    params = {"blocks": {"mlp": {"kernel": jnp.ones((1, 4, 4)), "bias": jnp.ones(4)}}}
    fresh = Optimization(rule, groups=groups).transform(9).init(params)
    schedules = lambda part: isinstance(part, optax.ScaleByScheduleState)  # noqa: E731
    before, after = (jax.tree.leaves(tree, is_leaf=schedules) for tree in (fresh, at_step(fresh, jnp.int32(5))))
    moved = [(a, b) for a, b in zip(before, after, strict=True) if schedules(a)]
    assert len(moved) >= 1 + len(groups)
    assert all(int(a.count) == 0 and int(b.count) == 5 for a, b in moved)
    assert all(a is b for a, b in zip(before, after, strict=True) if not schedules(a))
    if not groups:
        assert len(jax.tree.leaves(fresh)) == len(jax.tree.leaves(at_step(fresh, jnp.int32(5))))


def test_after_skipped_steps_the_applied_rate_is_the_reported_one_and_the_schedule_ends_with_the_run():
    config = Optimization(AdamW(b1=0.0, b2=0.0), learning_rate=1.0, schedule="linear")
    optimizer, params = Optimizer(config, (), 5), {"kernel": jnp.zeros(2)}
    state = State(jnp.int32(0), params, (), config.transform(5).init(params), {}, {})
    step = jax.jit(lambda state, g: update(optimizer, state, jnp.float32(1.0), g, {}, {}, {}, {}))
    rates = []
    for factor in (1.0, np.nan, np.inf, 1.0, 1.0):
        before = state.params["kernel"]
        state, metrics = step(state, {"kernel": jnp.full(2, factor)})
        moved = float(jnp.abs(state.params["kernel"] - before).max())
        assert moved == pytest.approx(float(metrics["lr"]) if np.isfinite(factor) else 0.0, abs=1e-5)
        rates.append(float(metrics["lr"]))
    np.testing.assert_allclose(rates, [1.0, 0.8, 0.6, 0.4, 0.2], atol=1e-6)
