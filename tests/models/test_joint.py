"""Several streams by one network: every distribution by the times alone, shared clocks, ends, draws, and guidance."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import keys_of
from tests.models.small import (
    AUDIO,
    FIELDS,
    IMAGE,
    Small,
    Spy,
    Steps,
    Third,
    batch_of,
    close,
    joint,
    noise_of,
    spied_losses,
    spied_samples,
    weights,
)
from unified_jax.config import from_plain, to_plain
from unified_jax.data.pipeline import Pipeline
from unified_jax.data.world import World
from unified_jax.errors import UserError
from unified_jax.layers.form import NoisyInput
from unified_jax.modalities.label import Label
from unified_jax.models.base import Model
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.joint import JointDiffusion
from unified_jax.models.streams import Condition, Stream
from unified_jax.networks.dit import DiT
from unified_jax.processes.edm import Edm
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.targets import shown_clean
from unified_jax.samplers.choice import Ddpm, Euler
from unified_jax.samplers.guidance import Axis, Guidance
from unified_jax.samplers.plan import SamplingPlan

PLAN = SamplingPlan(Euler(), 2)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [((), ("image", "audio")), (("audio",), ("image",)), ((), ("image",)), (("image",), ("audio",)), ((), ("audio",))],
    ids=["joint", "image from audio", "image", "audio from image", "audio"],
)
def test_given_wanted_and_absent_are_times(given, wanted):
    model = joint()
    batch = batch_of(model, 3)
    shown, made = spied_samples(model, {name: batch[name] for name in given}, wanted, 3)
    assert set(made) == set(wanted)
    start = noise_of(FIELDS, keys_of(3))
    for (noisy, _), time in zip(shown, (1.0, 0.5), strict=True):
        assert list(noisy) == ["image", "audio"]
        for name, one in noisy.items():
            if name in given:
                close(one.x, FIELDS[name].to_model(jnp.asarray(batch[name])))
                np.testing.assert_array_equal(one.t, np.zeros(3))
            elif name in wanted:  # a velocity of zero leaves it where it began
                close(one.x, start[name])
                np.testing.assert_array_equal(one.t, np.full(3, 1000 * time))
            else:
                close(one.x, shown[0][0][name].x)
                np.testing.assert_array_equal(one.t, np.full(3, 1000.0))
                assert abs(float(one.x.std()) - 1) < 0.1
                assert not np.allclose(one.x, start[name])
                assert not np.allclose(one.x[0], one.x[1])


def test_absent_noise_belongs_to_the_sample_and_not_to_the_plan():
    streams = (Stream(IMAGE), Stream(AUDIO, DiscreteGaussian(steps=40)), Stream(Third(), Edm()))
    model = JointDiffusion(Spy(), streams)
    found = [spied_samples(model, {}, ("image",), *asked)[0][0][0] for asked in ((1, 2), (3, 1))]
    for name, end in (("audio", 39), ("third", np.log(80) / 4)):
        alone, among = (noisy[name] for noisy in found)
        close(alone.x[0], among.x[0])
        close(among.t, np.full(3, end))
        assert abs(float(among.x.std()) - 1) < 0.3  # c_in of 80 times noise, too
    chain = joint(image={"process": DiscreteGaussian(steps=40)})  # the plan need not suit what is not sampled
    made = jax.eval_shape(
        lambda k: chain.generate({"unused": 0}, {}, ("image",), k, SamplingPlan(Ddpm(), 2)), keys_of(1)
    )
    assert made["image"].shape == (1, 16, 16, 3)


@pytest.fixture(scope="module")
def trained():
    """A small network with parameters that all matter."""
    model = joint(Small())
    return model, weights(model)


def test_a_sample_depends_on_no_batch():
    model = JointDiffusion(Small(), (Stream(IMAGE), Stream(AUDIO), Stream(Third())))
    params, sound = weights(model, 0.1), batch_of(model, 4)["audio"]
    draw = jax.jit(lambda audio, keys: model.generate(params, {"audio": audio}, ("image",), keys, PLAN)["image"])
    whole, one = draw(sound, keys_of(4)), draw(sound[1:2], keys_of(4)[1:2])
    np.testing.assert_allclose(one[0], whole[1], rtol=1e-5, atol=1e-5)
    assert not np.allclose(whole[0], whole[1], atol=0.1)
    assert np.isfinite(whole).all()


def test_guidance_comes_from_the_same_call(trained):
    model, params = trained
    keys, sound = keys_of(2), batch_of(model, 2)["audio"]
    spied = dataclasses.replace(model, network=Spy())
    absent = spied_samples(spied, {}, ("image",), 2, 1)[0][0][0]["audio"]
    noise, top = noise_of(("image",), keys)["image"], jnp.full(2, 1000.0)
    image, audio = (stream.form for stream in model.streams)

    def velocity(x, t):
        return model.call(params, (NoisyInput(image, noise, top), NoisyInput(audio, x, t)), ())[0]["image"]

    @jax.jit
    def found(keys):
        plans = [SamplingPlan(Steps(), 1, g) for g in (Guidance(2.5), Guidance(axes=(Axis(("audio",), 2.5),)))]
        made = [model.generate(params, {"audio": sound}, ("image",), keys, plan)["image"] for plan in plans]
        return made, velocity(AUDIO.to_model(sound), jnp.zeros(2)), velocity(absent.x, absent.t)

    made, conditional, unconditional = found(keys)
    for one in made:
        expected = noise - (unconditional + 2.5 * (conditional - unconditional))
        np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-4)
    assert float(jnp.abs(conditional - unconditional).max()) > 0.05


def test_streams_sampled_together_are_guided_away_from_their_marginals(trained):
    model, params = trained
    keys, x = keys_of(2), {name: 0.5 * value for name, value in noise_of(FIELDS, keys_of(2)).items()}
    t = {"image": jnp.full(2, 0.7), "audio": jnp.full(2, 0.4)}

    @jax.jit
    def found(keys):
        guide, every = Guidance(joint=2.5), tuple(FIELDS)
        said = [
            model.sampling(params, {}, wanted, keys, SamplingPlan(guidance=g)).denoise
            for wanted, g in ((every, guide), (every, Guidance()), (("image",), guide), (("audio",), Guidance()))
        ]
        alone = [said[2]({"image": x["image"]}, {"image": t["image"]})]
        alone += [said[3]({"audio": x["audio"]}, {"audio": t["audio"]})]
        return said[0](x, t), said[1](x, t), alone[0] | alone[1]

    guided, joint, alone = found(keys)
    for name in FIELDS:
        expected = alone[name].x0 + 2.5 * (joint[name].x0 - alone[name].x0)
        np.testing.assert_allclose(guided[name].x0, expected, rtol=1e-4, atol=1e-4)
        assert float(jnp.abs(joint[name].x0 - alone[name].x0).max()) > 0.05


TWICE = (
    Stream(IMAGE, name="again", time="image"),
    Stream(IMAGE),
    Stream(AUDIO),
)
"""A stream of the same field, which has the times of one that comes after it."""


def test_a_shared_clock_has_one_time():
    model = JointDiffusion(Spy(), TWICE)
    batch = batch_of(model, 8)
    noisy, _, terms, _ = spied_losses(model, batch)
    np.testing.assert_array_equal(noisy["again"].t, noisy["image"].t)
    assert not np.allclose(noisy["audio"].t, noisy["image"].t, atol=1)
    assert set(terms) == {"again", "image", "audio"}
    t = np.asarray(noisy["image"].t)[:, None, None, None] / 1000
    x0 = IMAGE.to_model(jnp.asarray(batch["image"]))
    first, second = ((noisy[name].x - (1 - t) * x0) / t for name in ("again", "image"))
    assert abs(float(np.corrcoef(np.ravel(first), np.ravel(second))[0, 1])) < 0.1  # each has noise of its own
    for eps in (first, second):
        assert abs(float(np.std(eps)) - 1) < 0.1


def test_partners_are_sampled_given_and_left_out_together():
    model = JointDiffusion(Spy(), (Stream(IMAGE), Stream(AUDIO, time="image"), Stream(Third())))
    batch = batch_of(model, 2)
    shown, made = spied_samples(model, {}, ("image",), 2)
    assert set(made) == {"image"}
    for (noisy, _), time in zip(shown, (1000.0, 500.0), strict=True):
        np.testing.assert_array_equal(noisy["audio"].t, np.full(2, time))
        close(noisy["audio"].x, noise_of(FIELDS, keys_of(2))["audio"])
        np.testing.assert_array_equal(noisy["third"].t, np.full(2, 1000.0))
    for wanted in ("audio", "third"):
        with pytest.raises(UserError, match="image, audio share one time: give all of them, or none"):
            model.generate({}, {"image": batch["image"]}, (wanted,), keys_of(2), PLAN)
    both = {name: batch[name] for name in ("image", "audio")}
    shown, _ = spied_samples(model, both, ("third",), 2, 1, Guidance(axes=(Axis(("audio",), 3.0),)))
    assert [float(noisy[name].t[0]) for noisy, _ in shown for name in both] == [1000.0, 1000.0, 0.0, 0.0]


def test_terms_carry_their_streams_names():
    learned = {"process": DiscreteGaussian(steps=40, variance="learned_range")}
    model = joint(Small(), image=learned, conditions=(Label("shape", 4),))
    assert isinstance(model, Model)
    assert set(model.terms) == {"image", "image_vb", "audio"}
    assert set(joint(Small(), audio=learned | {"name": "sound"}).terms) == {"image", "sound", "sound_vb"}
    assert [m.name for m in model.modalities] == ["image", "audio", "shape"]
    assert model.givable == ("shape", "image", "audio")
    assert model.wantable == ("image", "audio")
    assert model.request((), ()) == (("shape",), ("image", "audio"))
    assert model.request(("image",), ()) == (("image",), ("audio",))
    with pytest.raises(UserError, match="Everything is given"):
        model.request(("image", "audio"), ())
    clash = (Stream(IMAGE, learned["process"]), Stream(AUDIO, name="image_vb"))
    with pytest.raises(ValueError, match="Loss terms need distinct names; image_vb is used twice"):
        _ = JointDiffusion(Small(), clash).terms


def test_a_share_of_the_times_is_at_the_ends():
    ends = {"image": RectifiedFlow(), "audio": DiscreteGaussian(steps=40), "third": Edm()}
    fields = FIELDS | {"third": Third()}
    streams = tuple(Stream(fields[name], process, ends=0.5) for name, process in ends.items())
    model = JointDiffusion(Spy(), (*streams, Stream(Third(), name="plain")), time_bins=4)
    batch = batch_of(model, 200)
    noisy, _, terms, metrics = spied_losses(model, batch)
    for name, process in ends.items():
        x0, one = np.asarray(fields[name].to_model(batch[name])), noisy[name]
        loss, weight = (np.asarray(v) for v in terms[name])
        clean = weight == 0
        whole, at = shown_clean(process, jnp.asarray(x0))
        close(one.x[clean], whole[clean])
        np.testing.assert_array_equal(one.t[clean], at)
        np.testing.assert_array_equal(loss[clean], 0.0)
        end = process.network_time(jnp.asarray(process.noise_time))
        pure = np.isclose(one.t, end, rtol=1e-6) & ~clean
        assert clean.mean() == pytest.approx(0.25, abs=0.1)
        assert pure.mean() == pytest.approx(0.25, abs=0.1)
        assert (loss[~clean] > 0).all() and set(weight) == {0.0, 1.0}
        noise = np.ravel(one.x[pure])
        assert abs(np.corrcoef(noise, np.ravel((x0 - x0.mean(0))[pure]))[0, 1]) < 0.1
        assert abs(noise.std() - 1) < 0.1
        sums, counts = metrics[f"loss_by_time/{name}"]
        assert float(counts.sum()) == weight.sum()
        assert float(sums.sum()) == pytest.approx(float(loss.sum()), rel=1e-4)
    assert not np.array_equal(terms["image"][1], terms["audio"][1])  # each at times of its own
    np.testing.assert_array_equal(terms["plain"][1], np.ones(200))
    assert float(metrics["loss_by_time/plain"][1].sum()) == 200


def test_the_first_stream_draws_as_a_model_of_one():
    model = joint()
    batch = batch_of(model, 4)
    one = Diffusion(Spy(), RectifiedFlow(), IMAGE)
    several, alone = spied_losses(model, batch), spied_losses(one, batch)
    close(several[0]["image"].x, alone[0]["image"].x)
    close(several[0]["image"].t, alone[0]["image"].t)
    np.testing.assert_allclose(several[2]["image"][0], alone[2]["mse"][0], rtol=1e-6)


def test_a_row_has_the_same_loss_in_any_company(trained):
    _, params = trained
    model = joint(Small(), image={"ends": 0.5}, audio={"ends": 0.2})
    rows, others = batch_of(model, 8), batch_of(model, 8, seed=1)
    order = np.asarray([6, 1, 3, 7, 0, 2, 4, 5])  # the first three keep their arrays, in other company
    mixed = {n: jnp.concatenate([v[order[:3]], (v if n == "slot" else others[n])[order[3:]]]) for n, v in rows.items()}
    losses = jax.jit(lambda rows: model.losses(params, {}, rows, jax.random.key(3))[0])
    whole, some = losses(rows), losses(mixed)
    for name, (value, weight) in some.items():
        close(value[:3], whole[name][0][order[:3]])
        np.testing.assert_array_equal(weight, whole[name][1][order])


def test_it_learns_the_world(trained):
    model, params = trained
    batch = Pipeline(World(resolution=16), "train", model.modalities, 8, 0).batch(0).arrays

    @jax.jit
    def step(params):
        def total(params):
            terms, _, _ = model.losses(params, {}, batch, jax.random.key(0))
            return sum((value.sum() for value, _ in terms.values()), jnp.zeros(())) / 8

        value, gradient = jax.value_and_grad(total)(params)
        return jax.tree.map(lambda p, g: p - 0.02 * g, params, gradient), value, gradient

    params, first, gradient = step(params)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(gradient))
    for _ in range(10):
        params, last, _ = step(params)
    assert float(last) < 0.95 * float(first)


def test_a_configuration_comes_back():
    streams = (Stream(IMAGE, name="picture", ends=0.1),)
    model = JointDiffusion(DiT(1, 8, 2), streams, (Condition(Label("shape", 4), "form", 0.1), Label("colour", 3)))
    assert from_plain(to_plain(model)) == model
    plan = SamplingPlan(guidance=Guidance(axes=(Axis(("form",), 2.0, of=("picture",)),)))
    assert from_plain(to_plain(plan)) == plan
