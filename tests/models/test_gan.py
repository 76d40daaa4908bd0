"""GANs: losses and penalties in closed form, two players by hand, a weight of zero adds nothing, kill and resume."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import EXPERIMENT, first_steps, keys_of
from unified_jax.data.gaussians import Gaussians
from unified_jax.data.world.scene import SHAPES
from unified_jax.errors import UserError
from unified_jax.evaluation.modes import modes
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.gan import Cosine, Gan
from unified_jax.models.gan_losses import Hinge, Relativistic, Separable, judged
from unified_jax.networks.patchgan import PatchGan
from unified_jax.networks.perceptrons import PerceptronDiscriminator, PerceptronGenerator
from unified_jax.runs.checkpoints import Checkpoints
from unified_jax.runs.loop import train
from unified_jax.runs.start import Start
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.algorithms import AdamW
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.ema import Ema
from unified_jax.training.experiment import Checkpointing
from unified_jax.training.optimizer import Optimization
from unified_jax.training.program import assemble

LABEL = Label("shape", 6, SHAPES)
GAN = Gan(
    PerceptronGenerator((16, 16, 3), latent=4, width=8, depth=1, classes=6),
    PerceptronDiscriminator(8, 1, classes=6),
    Image(16, 16, 3),
    LABEL,
    gamma=Cosine(2.0, 0.5, 4),
)


def experiment(model=GAN, **fields):
    plain = {"tuning": EXPERIMENT.tuning, "preview": dataclasses.replace(EXPERIMENT.preview, every=0)}
    optimizer = Optimization(AdamW(b1=0.0, b2=0.9, b2_end=0.99, b2_steps=4), learning_rate=1e-2)
    ema = (Ema(warmup="half-life", half_life=3.0, over=4),)
    return dataclasses.replace(EXPERIMENT, model=model, optimizer=optimizer, ema=ema, **plain, **fields)


def learned(state):
    return jax.tree.leaves((state.params, state.ema, state.opt_state))


def test_losses_are_those_of_the_papers():
    real, fake = jnp.asarray([0.3, -2.0, 40.0]), jnp.asarray([1.0, -2.5, -50.0])

    def f(t):
        return np.logaddexp(0, -np.asarray(t, np.float64))

    for loss, judge, make in (
        (Relativistic(), f(real - fake), f(fake - real)),
        (Separable(), f(real) + f(-fake), f(fake)),
        (Hinge(), np.maximum(0, 1 - real) + np.maximum(0, 1 + fake), -fake),
    ):
        np.testing.assert_allclose(loss.discriminator(real, fake), judge, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(loss.generator(real, fake), make, rtol=1e-6, atol=1e-7)


def test_the_penalty_of_a_quadratic_critic_and_its_slope_are_in_closed_form():
    """D(x) = w x + a x^2 / 2: |grad|^2 = |w + a x|^2, and its slope by a is 2 (w + a x) x, a second derivative."""
    x, w = jax.random.normal(jax.random.key(0), (4, 2, 3)), jax.random.normal(jax.random.key(1), (2, 3))

    def penalty(a):
        logits, squares = judged(lambda x: jnp.sum(w * x + a * x**2 / 2, axis=(1, 2)), x)
        return jnp.sum(squares), (logits, squares)

    (_, (logits, squares)), slope = jax.value_and_grad(penalty, has_aux=True)(0.7)
    np.testing.assert_allclose(logits, jnp.sum(w * x + 0.35 * x**2, (1, 2)), rtol=1e-5)
    np.testing.assert_allclose(squares, jnp.sum((w + 0.7 * x) ** 2, (1, 2)), rtol=1e-5)
    np.testing.assert_allclose(slope, jnp.sum(2 * (w + 0.7 * x) * x), rtol=1e-5)


@functools.cache
def parameters():
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(GAN.init, jax.random.key(0))
    return jax.tree.map(lambda s: jax.device_put((0.2 * rng.normal(size=s.shape)).astype(np.float32)), shapes)


@functools.cache
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (4, 16, 16, 3), np.uint8), "shape": np.arange(4, dtype=np.int32),
        "slot": np.arange(4, dtype=np.int32),
    }  # fmt: skip


def test_terms_pair_rows_and_follow_the_schedule_and_metrics_say_who_wins():
    params = parameters()
    losses = jax.jit(lambda rows: GAN.losses(params, {}, rows | {"step": 2}, jax.random.key(0)))
    terms, _, metrics = losses(batch())
    assert sorted(terms) == ["discriminator", "generator", "r1", "r2"] == sorted(GAN.terms)
    x, c = GAN.modality.to_model(jnp.asarray(batch()["image"])), jax.nn.one_hot(batch()["shape"], 6)
    real, squares = jax.jit(lambda x: judged(lambda x: GAN.judge(params, x, c), x))(x)
    np.testing.assert_allclose(terms["r1"][0], 0.5 * 1.25 * squares, rtol=1e-5)
    alone, _, _ = losses({n: v[2:3] for n, v in batch().items()})  # a row's loss is its own
    for name, (value, weight) in terms.items():
        np.testing.assert_allclose(alone[name][0], value[2:3], rtol=1e-4, err_msg=name)
        np.testing.assert_array_equal(weight, 1)
    fake = real - np.log(np.expm1(np.asarray(terms["generator"][0], np.float64)))  # softplus(real - fake), undone
    np.testing.assert_allclose(metrics["margin"][0], jnp.sum(real - fake), rtol=1e-3)


def test_samples_are_of_the_given_class_and_of_their_keys():
    params = parameters()
    given = {"shape": jnp.arange(4, dtype=jnp.int32)}
    made = GAN.generate(params, given, ("image",), keys_of(4), SamplingPlan())["image"]
    one = GAN.generate(params, {"shape": given["shape"][2:3]}, ("image",), keys_of(4)[2:3], SamplingPlan(steps=3))[
        "image"
    ]
    np.testing.assert_allclose(made[2:3], one, atol=1e-5)
    other = GAN.generate(params, {"shape": given["shape"][::-1]}, ("image",), keys_of(4), SamplingPlan())["image"]
    assert np.abs(other - made).max() > 1e-3


@functools.cache
def steps_of(model=GAN, **fields):
    return first_steps(experiment(model, **fields), 1, 4)


@pytest.mark.nightly
def test_accumulation_and_meshes_change_nothing():
    losses, state = steps_of()
    again, other = first_steps(experiment(accumulate=2, mesh=MeshShape(2, 2)), 4, 4)
    np.testing.assert_allclose(again, losses, rtol=1e-5)
    for a, b in zip(learned(state), learned(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.nightly
def test_a_weight_of_zero_is_bitwise_the_plain_game():
    plain = dataclasses.replace(GAN, gamma=Cosine(0.0, 0.0))
    assert plain.terms == ("discriminator", "generator")
    _, without = steps_of(plain)
    _, zero = first_steps(experiment(balance=FixedBalance((("r1", 0.0), ("r2", 0.0)))), 1, 4)
    for a, b in zip(learned(without), learned(zero), strict=True):
        np.testing.assert_array_equal(a, b)


def test_penalties_move_the_discriminator_alone():
    def penalties(params):
        terms, _, _ = GAN.losses(params, {}, batch() | {"step": 0}, jax.random.key(0))
        return jnp.sum(terms["r1"][0] + terms["r2"][0])

    slopes = jax.jit(jax.grad(penalties))(parameters())
    assert not any(leaf.any() for leaf in jax.tree.leaves(slopes["generator"]))
    assert all(
        leaf.any() for leaf in (slopes["discriminator"]["fc0"]["kernel"], slopes["discriminator"]["end"]["kernel"])
    )


def test_a_killed_game_goes_on_bitwise(tmp_path, one_device):
    e = experiment(steps=4, checkpoint=Checkpointing(every=2))
    e = dataclasses.replace(e, validation=dataclasses.replace(e.validation, every=0), log_every=1)
    train(e, Start(tmp_path / "whole", quiet=True))
    train(dataclasses.replace(e, steps=2), Start(tmp_path / "parts", quiet=True))
    train(e, Start(tmp_path / "parts", quiet=True))
    program = assemble(e, make_mesh(MeshShape(), jax.devices()[:1]))
    states = [Checkpoints(tmp_path / n, write=False).restore(program.abstract_state()) for n in ("whole", "parts")]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_does_not_fit_is_a_sentence():
    with pytest.raises(ValueError, match="discriminator reads 6 classes, and its label has 0"):
        dataclasses.replace(GAN, label=None, generator=PerceptronGenerator())
    with pytest.raises(UserError, match=r"Gan\.loss is .* lacks discriminator"):
        dataclasses.replace(GAN, loss=AdamW())
    with pytest.raises(ValueError, match="must not be negative"):
        dataclasses.replace(GAN, gamma=Cosine(-1.0, 0.0, 3))
    with pytest.raises(UserError, match=r"makes \[1, 2\], and 'image' is \[16, 16, 3\]"):
        _ = dataclasses.replace(GAN, generator=PerceptronGenerator(classes=6)).terms
    with pytest.raises(UserError, match="give 'shape'"):
        GAN.request((), ("image",))
    with pytest.raises(UserError, match="without guidance"):
        GAN.generate(
            {}, {"shape": jnp.zeros(1, jnp.int32)}, ("image",), keys_of(1), SamplingPlan(guidance=Guidance(2.0))
        )


@dataclasses.dataclass(frozen=True)
class Batched:
    """PatchGAN as a discriminator, batch norm and all."""

    classes: int = 0

    def init(self, key, x, c):
        return PatchGan(4, 1).init(key, x)

    def __call__(self, x, c=None):
        raise NotImplementedError


def test_a_discriminator_with_batch_statistics_is_refused():
    gan = Gan(PerceptronGenerator((16, 16, 3)), Batched(), Image(16, 16, 3))
    with pytest.raises(UserError, match="keeps running beside its parameters"):
        jax.eval_shape(gan.init, jax.random.key(0))


def test_the_second_moments_decay_and_the_average_follow_their_schedules():
    """b2 by half a cosine with torch's bias correction (eps 0: a step is g / sqrt(v) times the rate); 2^(-1/h)."""
    rule = AdamW(b1=0.0, b2=0.5, eps=0.0, b2_end=0.9, b2_steps=2).transform(lambda step: 0.1, 1.0, ())
    params, gradients = {"kernel": jnp.zeros(1)}, [1.0, -3.0, 2.0, 0.5]
    state, v, product = rule.init(params), 0.0, [0.5, 0.7, 0.9, 0.9]
    for k, (g, b2) in enumerate(zip(gradients, product, strict=True), 1):
        update, state = rule.update({"kernel": jnp.asarray([g])}, state, params)
        v = b2 * v + (1 - b2) * g**2
        np.testing.assert_allclose(update["kernel"], -0.1 * g / np.sqrt(v / (1 - b2**k)), rtol=1e-5)
    ema = Ema(warmup="half-life", half_life=8.0, over=4)
    shares = [float(ema.share(jnp.asarray(float(step)))) for step in range(6)]
    halves = [8 * 0.5 * (1 - np.cos(np.pi * min(step / 4, 1))) for step in range(6)]
    np.testing.assert_allclose(shares, [0.0, *(2 ** (-1 / h) for h in halves[1:])], atol=1e-6)


def test_modes_are_counted_and_a_collapse_is_seen():
    data = Gaussians(side=3, width=0.02, count=500)
    ((_, _, source),) = data.parts("test", ("point", "mode"))
    points = np.stack([source[i]["point"] for i in range(500)])
    near, found, kl = modes(data, points)
    assert near.mean() > 0.99 and found == 9 and kl < 0.05
    assert {source[i]["mode"] for i in range(500)} == set(range(9))
    few = points[[source[i]["mode"] < 3 for i in range(500)]]
    assert modes(data, few)[1:] == (3, pytest.approx(np.log(3), abs=0.05))
    assert modes(data, points + 5.0)[1:] == (0, pytest.approx(np.log(9)))
