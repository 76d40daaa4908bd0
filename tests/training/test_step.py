import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import EXPERIMENT, MODEL, TINY, experiment
from unified_jax.data.pipeline import Pipeline
from unified_jax.models.diffusion import Diffusion
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.runs.loop import prepare
from unified_jax.sharding import MeshShape
from unified_jax.training.algorithms import AdamW, decay_mask
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.ema import Ema
from unified_jax.training.flops import count_flops
from unified_jax.training.optimizer import Optimization
from unified_jax.training.step import Optimizer, example_losses, init_state, train_step

OPTIMIZER = Optimizer(Optimization(learning_rate=1e-3), (Ema(0.9, warmup="constant"),), 10)


def test_optimizer_state_and_averages_lie_like_their_parameters():
    run = prepare(experiment(mesh=MeshShape(data=1, fsdp=4, tensor=2)))
    cut = run.program.shardings.params["blocks"]["attention"]["qkv_kernel"].spec
    assert cut[1:3] == ("fsdp", "tensor")
    assert run.program.shardings.ema[1]["blocks"]["attention"]["qkv_kernel"].spec == cut
    moments = [
        s for p, s in jax.tree_util.tree_leaves_with_path(run.program.shardings.opt_state) if "qkv_kernel" in str(p)
    ]
    assert [m.spec for m in moments] == [cut, cut]


@functools.cache
def one_step(model=TINY.model, balance=FixedBalance()):  # noqa: B008
    """(fresh state, rows of a batch, the compiled step)."""
    state = jax.jit(functools.partial(init_state, model, OPTIMIZER, balance))(jax.random.key(0))
    rows = Pipeline(EXPERIMENT.data, "train", model.modalities, 8, 0).batch(0).arrays
    return state, rows, jax.jit(functools.partial(train_step, model, OPTIMIZER, balance))


def test_a_step_that_is_not_finite_changes_nothing_but_the_count():
    state, rows, step = one_step()
    spoil = jax.jit(functools.partial(jax.tree.map, lambda p: p.at[(0,) * p.ndim].set(jnp.nan)))
    poisoned = dataclasses.replace(state, params=spoil(state.params))
    after, metrics = step(poisoned, {}, rows, jax.random.key(1))
    assert not bool(metrics["finite"])
    assert int(after.step) == 1
    for a, b in zip(jax.tree.leaves(after.opt_state), jax.tree.leaves(poisoned.opt_state), strict=True):
        np.testing.assert_array_equal(a, b)
    good, metrics = step(state, {}, rows, jax.random.key(1))
    assert bool(metrics["finite"])
    good, state = jax.device_get((good.params, state.params))
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(good), jax.tree.leaves(state), strict=True))


def test_the_average_and_the_metrics():
    state, rows, step = one_step()
    after, metrics = jax.device_get(step(state, {}, rows, jax.random.key(1)))
    for a, p, old in zip(*map(jax.tree.leaves, (after.ema[0], after.params, state.params)), strict=True):
        np.testing.assert_allclose(a, 0.9 * np.asarray(old) + 0.1 * p, atol=1e-6)
    norm = np.sqrt(sum(np.sum(p**2) for p in jax.tree.leaves(after.params)))
    assert float(metrics["param_norm"]) == pytest.approx(norm, rel=1e-5)
    losses = jax.jit(functools.partial(example_losses, TINY.model))(state, {}, rows, jax.random.key(1))
    assert float(losses["mse"].mean()) == pytest.approx(float(metrics["loss"]), rel=1e-5)


def test_several_terms_are_weighed_and_divided_once():
    model = dataclasses.replace(TINY.model, process=DiscreteGaussian(steps=50, variance="learned_range"))
    state, rows, step = one_step(model, FixedBalance((("vb", 0.5),)))
    _, metrics = step(state, {}, rows, jax.random.key(1))
    assert float(metrics["loss"]) == pytest.approx(float(metrics["loss/mse"] + 0.5 * metrics["loss/vb"]), rel=1e-5)
    unknown = FixedBalance((("velocity", 1.0),))
    with pytest.raises(ValueError, match="loss terms"):
        jax.eval_shape(functools.partial(train_step, model, OPTIMIZER, unknown), state, {}, rows, jax.random.key(1))


@dataclasses.dataclass(frozen=True)
class Line(Diffusion):
    """A model that is differentiated by hand: terms of (w x - y)^2 and w x, each over the rows that have it."""

    terms = ("fit", "size", "absent")

    def init(self, key):
        return {"w": jnp.asarray(2.0)}

    def losses(self, params, aux, batch, key):
        said = params["w"] * batch["x"]
        here = batch["weight"]
        terms = {"fit": ((said - batch["y"]) ** 2, jnp.ones_like(said)), "size": (here * said, here)}
        terms["absent"] = (jnp.zeros_like(said), jnp.zeros_like(said))
        return terms, aux, {"mean_x": (jnp.sum(batch["x"] * here), jnp.sum(here))}


@pytest.mark.parametrize("parts", [1, 4])
def test_sums_are_added_up_and_divided_once(parts):
    """Rows of unequal weight: a mean of the microbatches' means would be another number."""
    x, y = np.asarray([1.0, -2, 0.5, 3, 1.5, -1, 2, 4]), np.asarray([0.5, 1, -1, 2, 0, 3, 1, -2])
    weight = np.asarray([1.0, 0, 0, 0, 2, 0, 1, 3])
    optimizer = Optimizer(Optimization(AdamW(), learning_rate=1e-2, clip_norm=0.5), (Ema(0.9, "constant"),), 10, parts)
    balance = FixedBalance((("fit", 0.7), ("size", 3.0)))
    state = init_state(Line(), optimizer, balance, jax.random.key(0))
    rows = {name: jnp.asarray(value, jnp.float32) for name, value in (("x", x), ("y", y), ("weight", weight))}
    step = jax.jit(functools.partial(train_step, Line(), optimizer, balance))
    after, metrics = step(state, {}, rows, jax.random.key(1))
    fit, size = np.mean((2 * x - y) ** 2), np.sum(weight * 2 * x) / weight.sum()
    gradient = 0.7 * np.mean(2 * (2 * x - y) * x) + 3 * np.sum(weight * x) / weight.sum()
    wanted = {"loss/fit": fit, "loss/size": size, "loss/absent": 0.0, "loss": 0.7 * fit + 3 * size}
    wanted |= {"grad_norm": abs(gradient), "mean_x": np.sum(weight * x) / weight.sum(), "lr": 1e-2}
    for name, value in wanted.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-5), name
    assert float(after.params["w"]) == pytest.approx(2 - 1e-2 * np.sign(gradient), rel=1e-5)  # Adam's first step
    assert float(after.ema[0]["w"]) == pytest.approx(0.9 * 2 + 0.1 * float(after.params["w"]), rel=1e-6)
    losses = example_losses(Line(), state, {}, rows, jax.random.key(1))
    np.testing.assert_allclose(losses["fit"], (2 * x - y) ** 2, rtol=1e-5)


def test_decay_acts_on_kernels_alone():
    mask = jax.tree_util.tree_leaves_with_path(decay_mask(jax.jit(MODEL.init)(jax.random.key(0))))
    for path, decays in mask:
        assert decays == ("kernel" in path[-1].key)


def test_learning_rates():
    cosine = Optimization(learning_rate=1e-3, warmup_steps=10, schedule="cosine", final_fraction=0.1).rate(110)
    assert float(cosine(0)) == pytest.approx(1e-4)
    assert float(cosine(9)) == pytest.approx(1e-3)
    assert float(cosine(60)) == pytest.approx(0.55e-3, rel=1e-3)
    assert float(cosine(110)) == pytest.approx(1e-4, rel=1e-3)
    assert float(Optimization(learning_rate=1e-3).rate(5)(0)) == pytest.approx(1e-3)


def test_flops_are_those_of_the_matrices_and_count_every_layer():
    assert count_flops(lambda a, b: a @ b, jnp.zeros((4, 5)), jnp.zeros((5, 6))) == 2 * 4 * 5 * 6

    def stacked(x, w):
        return jax.lax.scan(lambda c, _: (c @ w, None), x, None, length=7)[0]

    assert count_flops(jax.jit(stacked), jnp.zeros((3, 4)), jnp.zeros((4, 4))) == 7 * 2 * 3 * 4 * 4


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Optimization(learning_rate=0.0), "positive"),
        (lambda: AdamW(b1=1.0), "b1"),
        (lambda: Optimization(clip_norm=-1.0), "not be negative"),
        (lambda: Ema(1.0), "EMA"),
    ],
)
def test_bad_fields_are_sentences(build, words):
    with pytest.raises(ValueError, match=words):
        build()
