"""Training draws belong to (step, slot), samples to (seed, index): nothing depends on the company an example keeps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import EXPERIMENT, MODEL, stirred
from tests.models.small import Small, weights
from unified_jax.data.pipeline import Pipeline
from unified_jax.errors import UserError
from unified_jax.models.base import Model
from unified_jax.models.sampling import generate_many, sample_keys
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.samplers.choice import Ddim, Ddpm, Heun, Sde
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.sharding import Rules


@pytest.fixture(scope="module")
def params():
    return stirred(MODEL.init, 0.05)


LOSSES = jax.jit(type(MODEL).losses, static_argnums=0)


@functools.cache
def batch():
    return Pipeline(EXPERIMENT.data, "train", MODEL.modalities, 8, 0).batch(0).arrays


def test_it_is_a_model():
    assert isinstance(MODEL, Model)
    assert hash(MODEL) == hash(dataclasses.replace(MODEL))
    axes, params = MODEL.axes(), jax.eval_shape(MODEL.init, jax.random.key(0))
    names = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple))
    assert [len(n) for n in names] == [p.ndim for p in jax.tree.leaves(params)]


def test_a_row_has_the_same_loss_in_any_company(params):
    key, rows = jax.random.key(3), batch()
    whole, _, _ = LOSSES(MODEL, params, {}, rows, key)
    some, _, _ = LOSSES(MODEL, params, {}, {n: v[[6, 1]] for n, v in rows.items()}, key)
    np.testing.assert_allclose(some["mse"][0], whole["mse"][0][np.asarray([6, 1])], rtol=2e-5)


def test_the_same_example_in_another_slot_or_step_gets_fresh_noise(params):
    rows = batch()
    twice = {n: np.repeat(v[:1], 2, axis=0) for n, v in rows.items()} | {"slot": np.asarray([0, 1], np.int32)}
    losses, _, _ = LOSSES(MODEL, params, {}, twice, jax.random.key(3))
    assert abs(float(losses["mse"][0][0] - losses["mse"][0][1])) > 1e-4
    other, _, _ = LOSSES(MODEL, params, {}, twice, jax.random.key(4))
    assert abs(float(losses["mse"][0][0] - other["mse"][0][0])) > 1e-4


def test_the_loss_by_time_adds_up_to_the_loss(params):
    terms, _, metrics = LOSSES(MODEL, params, {}, batch(), jax.random.key(3))
    sums, weights = metrics["loss_by_time"]
    assert float(weights.sum()) == 8
    assert float(sums.sum()) == pytest.approx(float(terms["mse"][0].sum()), rel=1e-5)


def test_labels_are_dropped_at_their_rates():
    model = dataclasses.replace(MODEL, drop_all=0.3, drop_some=0.4)
    shown = model.conditions_of({}, {"shape": jnp.zeros(20_000), "colour": jnp.zeros(20_000)}, 20_000)
    shape, colour = model._dropped(shown, sample_keys(0, 0, 20_000), None)
    dropped = np.stack([shape.value == 6, colour.value == 8], axis=1)
    np.testing.assert_array_equal(np.stack([shape.value, colour.value], axis=1)[~dropped], 0)
    assert dropped.all(1).mean() == pytest.approx(0.3 + 0.7 * 0.4 / 3, abs=0.01)
    assert dropped[:, 0].mean() == pytest.approx(0.3 + 0.7 * 0.2, abs=0.01)


@pytest.mark.parametrize(
    ("network", "process", "plan"),
    [
        (MODEL.network, MODEL.process, SamplingPlan(Heun(), 3, Guidance(2.0))),
        (
            Small(),
            DiscreteGaussian(steps=40, variance="learned_range"),
            SamplingPlan(Ddpm(), 4, Guidance(1.5), clip=True),
        ),
        (Small(), DiscreteGaussian(steps=40), SamplingPlan(Ddim(eta=0.5), 4)),
    ],
    ids=["flow", "ddpm", "ddim"],
)
def test_a_sample_depends_on_seed_index_and_condition_alone(network, process, plan):
    model = dataclasses.replace(MODEL, network=network, process=process)
    params = weights(model, 0.02)
    given = {"shape": np.arange(32, dtype=np.int32) % 7, "colour": np.arange(32, dtype=np.int32) % 9}

    def draw(batch):
        return generate_many(model, params, given, ("image",), 32, 5, plan, batch, Rules())["image"]

    one = draw(32)
    np.testing.assert_allclose(draw(8), one, rtol=2e-6, atol=2e-5)
    assert np.isfinite(one).all()
    assert not np.allclose(one[0], one[7])


def test_starting_noise_is_the_same_to_the_bit():
    whole = sample_keys(9, 0, 32)
    parts = jnp.concatenate([sample_keys(9, first, 8) for first in range(0, 32, 8)])
    np.testing.assert_array_equal(jax.random.key_data(whole), jax.random.key_data(parts))


@pytest.mark.parametrize(
    ("model", "plan", "words"),
    [
        (MODEL, SamplingPlan(Ddpm()), "Ddpm needs a discrete process"),
        (dataclasses.replace(MODEL, process=DiscreteGaussian()), SamplingPlan(Sde()), "Sde needs continuous time"),
        (dataclasses.replace(MODEL, process=DiscreteGaussian(steps=40)), SamplingPlan(Ddim(), 50), "has 40 steps"),
    ],
)
def test_samplers_that_do_not_fit_are_sentences(model, plan, words):
    with pytest.raises(UserError, match=words):
        plan.prepare(model.process)


def test_wrong_requests_are_sentences(params):
    keys = sample_keys(0, 0, 2)
    with pytest.raises(UserError, match="generates image; found 'audio'"):
        MODEL.generate(params, {}, ("audio",), keys, SamplingPlan())
    with pytest.raises(UserError, match="conditioned on"):
        MODEL.generate(params, {"size": jnp.zeros(2)}, ("image",), keys, SamplingPlan())
    with pytest.raises(UserError, match="at least one step"):
        SamplingPlan(steps=0)
    with pytest.raises(ValueError, match="probability"):
        dataclasses.replace(MODEL, drop_all=1.5)
