"""Training an autoencoder: its losses by hand, the players' order, stops, and the run as a latent space."""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unified_jax as uj
from tests.helpers import EXPERIMENT, first_steps, on_one_device, stirred
from tests.linear import Ends, Line
from unified_jax.errors import UserError
from unified_jax.layers.mlp import Dense
from unified_jax.models.autoencoders.model import AUTOENCODER, DRAW
from unified_jax.models.autoencoding import Autoencoding
from unified_jax.networks.autoencoders.moments import Moments
from unified_jax.networks.autoencoders.quantise import Quantised, apart, nearest, passed, rows
from unified_jax.runs.checkpoints import Checkpoints
from unified_jax.runs.loop import train
from unified_jax.runs.previews import Validator
from unified_jax.runs.saved import loading
from unified_jax.runs.stages import Loading, read_stage
from unified_jax.runs.start import Start
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.players import play
from unified_jax.training.program import assemble
from unified_jax.training.step import Optimizer, init_state

ae = uj.autoencoders
SGD = uj.Optimization(uj.AdamW(b1=0.0, b2=0.0), learning_rate=0.1)  # its step is the sign of the gradient


class Critic(nn.Module):
    """A linear discriminator: its gradient by the image is its kernel."""

    @nn.compact
    def __call__(self, x, train=False):
        return Dense(1, (None, "patch"), name="judge")(x)


IMAGE = uj.Image(4, 4, patch=2)
CODER = Autoencoding(Line(), (4, 4, 3))
L2, L1 = ae.Pixels("l2"), ae.Pixels()
ADVERSARY = ae.Adversary(Critic(), weight=0.7)


def model(*objective, **fields):
    return uj.Autoencoder(CODER, IMAGE, objective, **fields)


@pytest.fixture(scope="module")
def batch():
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), np.uint8)
    return {"image": jnp.asarray(images), "slot": jnp.arange(4, dtype=jnp.int32), "step": jnp.int32(0)}


@pytest.fixture(scope="module")
def params():
    return stirred(CODER.init, 0.3)


def slopes(m, params, batch, names=None):
    """Gradient of the sum of (these) terms, and the terms."""

    def total(p):
        terms = losses(m, p, batch)
        return sum(jnp.mean(v) for n, v in terms.items() if names is None or n in names), terms

    (_, terms), found = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    return found, terms


def losses(m, params, batch, key=1):
    return {n: v for n, (v, _) in m.losses(params, {}, batch, jax.random.key(key))[0].items()}


def sum_of(m, params, batch):
    return sum(map(jnp.mean, losses(m, params, batch).values()))


def value(m, params, batch, name):
    """One term, in one program."""
    return np.asarray(jax.jit(lambda p: losses(m, p, batch)[name])(params))


def by_hand(params, batch):
    """(x, mean, logvar, noise, z, y) of the linear autoencoder in NumPy."""
    x = np.asarray(batch["image"], np.float32) / 127.5 - 1
    p = jax.device_get(params)
    h = x @ p["encoder"]["conv_out"]["kernel"] + p["encoder"]["conv_out"]["bias"]
    mean, logvar = h[..., :2], h[..., 2:]
    fold = lambda i: jax.random.fold_in(jax.random.fold_in(jax.random.key(1), i), DRAW)  # noqa: E731
    noise = np.stack([jax.random.normal(fold(i), (4, 4, 2)) for i in range(4)])
    z = mean + np.exp(0.5 * logvar) * noise
    return x, mean, logvar, noise, z, z @ p["decoder"]["conv_out"]["kernel"] + p["decoder"]["conv_out"]["bias"]


def test_values_and_the_encoders_gradient_are_those_of_the_formulas(params, batch):
    found, terms = slopes(model(L2, ae.Kl(0.5)), params, batch)
    x, mean, logvar, noise, _, y = by_hand(params, batch)
    np.testing.assert_allclose(terms["l2"], np.mean((x - y) ** 2, (1, 2, 3)), rtol=1e-4)
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar)
    np.testing.assert_allclose(terms["kl"], 0.5 * kl.sum((1, 2, 3)) / 48, rtol=1e-4)
    dz = 2 * (y - x) / x.size @ np.asarray(params["decoder"]["conv_out"]["kernel"]).T
    slope = np.concatenate([dz, dz * noise * 0.5 * np.exp(0.5 * logvar)], -1)
    slope += 0.5 / x.size * np.concatenate([mean, 0.5 * (np.exp(logvar) - 1)], -1)
    expected = np.einsum("bhwc,bhwd->cd", x, slope)
    np.testing.assert_allclose(found["encoder"]["conv_out"]["kernel"], expected, rtol=1e-3, atol=1e-5)


def test_a_loss_of_weight_zero_is_not_there(params, batch):
    plain, other = model(L1), model(L1, ae.Kl(0.0), dataclasses.replace(ADVERSARY, weight=0.0))
    assert other.players == () and other.terms == ("l1",) and other.whole_batch == ""
    programs = [
        jax.make_jaxpr(lambda p, m=m: jax.value_and_grad(lambda p: sum_of(m, p, batch))(p))(params)
        for m in (plain, other)
    ]
    assert str(programs[0]) == str(programs[1])
    assert str(programs[0]) != str(
        jax.make_jaxpr(jax.value_and_grad(lambda p: sum_of(model(L1, ae.Kl()), p, batch)))(params)
    )


def test_an_adaptive_weight_is_the_ratio_of_two_gradients_whatever_the_scale_of_the_critic(params, batch):
    m = model(L2, ADVERSARY)
    critic = {"judge": {"kernel": jnp.asarray([[0.3], [-0.2], [0.5]]), "bias": jnp.zeros(1)}}
    found, terms = slopes(m, {**params, "adversary": critic}, batch, ("adversary",))
    main, _ = slopes(m, {**params, "adversary": critic}, batch, ("l2",))
    _, _, _, _, z, y = by_hand(params, batch)
    kernel = lambda tree: np.asarray(tree["decoder"]["conv_out"]["kernel"])  # noqa: E731
    own = -np.einsum("bhwd,c->dc", z, np.asarray([0.3, -0.2, 0.5])) / 64  # of -mean D(y) by the decoder's kernel
    d = np.linalg.norm(kernel(main)) / (np.linalg.norm(own) + 1e-4)
    np.testing.assert_allclose(
        terms["adversary"], -0.7 * d * (y @ np.asarray([0.3, -0.2, 0.5])).mean((1, 2)), rtol=2e-3
    )
    np.testing.assert_allclose(kernel(found), 0.7 * d * own, rtol=2e-3, atol=1e-6)
    louder = jax.tree.map(lambda p: 10 * p, critic)
    again, _ = slopes(m, {**params, "adversary": louder}, batch, ("adversary",))
    np.testing.assert_allclose(kernel(again), kernel(found), rtol=3e-3, atol=1e-6)


def test_an_adaptive_weight_is_at_most_what_the_adversary_says(params, batch):
    critic = {"judge": {"kernel": jnp.asarray([[0.3], [-0.2], [0.5]]), "bias": jnp.zeros(1)}}
    found = {
        most: slopes(model(L2, dataclasses.replace(ADVERSARY, most=most)), {**params, "adversary": critic}, batch)[1]
        for most in (1e4, 1e-3)
    }
    bare = model(L2, dataclasses.replace(ADVERSARY, adaptive=False))
    _, plain = slopes(bare, {**params, "adversary": critic}, batch)
    np.testing.assert_allclose(found[1e-3]["adversary"], 1e-3 * plain["adversary"], rtol=1e-4)
    assert np.all(np.abs(found[1e4]["adversary"]) > 10 * np.abs(found[1e-3]["adversary"]))


def test_the_validation_loss_is_of_the_reconstruction_before_and_after_an_adversary_begins():
    m = uj.Autoencoder(
        dataclasses.replace(CODER, shape=(16, 16, 3)), uj.Image(16, 16), (L1, dataclasses.replace(ADVERSARY, start=5))
    )
    e = dataclasses.replace(
        EXPERIMENT, model=m, data=uj.World(resolution=16), batch_size=4, validation=uj.Validation(every=1, batches=2)
    )
    started = stirred(m.init, 0.3)
    with jax.set_mesh(make_mesh(MeshShape(), jax.devices()[:1])):
        found = Validator(e)
        assert found.loss(started, {}, 0) == found.loss(started, {}, 9)
        alone = Validator(dataclasses.replace(e, model=dataclasses.replace(m, objective=(L1,))))
        own = {name: tree for name, tree in started.items() if name != "adversary"}
        np.testing.assert_allclose(found.loss(started, {}, 9), alone.loss(own, {}, 9), rtol=1e-6)


def test_the_discriminator_answers_the_autoencoders_new_reconstructions(batch):
    m = model(L2, dataclasses.replace(ADVERSARY, adaptive=False, r1=0.4))
    opt, key = Optimizer(SGD, (), 5), jax.random.key(2)
    state = init_state(m, opt, FixedBalance(), key)
    rows = {name: batch[name] for name in ("image", "slot")}
    new, metrics = jax.jit(lambda s: play(m, opt, FixedBalance(), s, {}, rows, key))(state)
    at = {**new.params, "adversary": state.params["adversary"]}

    @jax.jit
    def judged(params):
        plain = model(L2, dataclasses.replace(ADVERSARY, adaptive=False))
        found = [one.losses(params, {}, rows, jax.random.fold_in(key, 0))[0]["discriminator"][0] for one in (m, plain)]
        return found

    with_penalty, without = judged(at)
    np.testing.assert_allclose(metrics["loss/discriminator"], jnp.mean(with_penalty), rtol=1e-5)
    assert abs(float(metrics["loss/discriminator"] - jnp.mean(judged(state.params)[0]))) > 1e-4
    kernel = np.asarray(state.params["adversary"]["judge"]["kernel"])
    # |dD/dx|^2 of a mean over 16 patches of a linear critic is |kernel|^2 / 16
    np.testing.assert_allclose(with_penalty - without, 0.2 * (kernel**2).sum() / 16, rtol=1e-3)
    assert m.players[0].name == AUTOENCODER and m.players[1].own(new.params).keys() == {"adversary"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: model(L1, ae.Adversary(ae.PatchGan(4, 1), r1=1.0)), "batch statistics"),
        (lambda: model(L1, ae.Commitment()), "needs a table"),
        (lambda: model(L1, ae.Entropy()), "lookup-free"),
        (lambda: model(L1, ae.ScaleEquivariance((3,))), "do not divide"),
        (lambda: model(L1, views=ae.EqVae(scales=(0.3,))), "no whole number"),
        (lambda: uj.Autoencoder(CODER, uj.Image(8, 8), (L1,)), r"shape \[8, 8, 3\]"),
        (lambda: model(L1, codebook=ae.EmaCodebook(4, 2)), "codebook"),
        (lambda: model("l1"), "no loss of an autoencoder"),
    ],
)
def test_what_does_not_suit_is_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_what_needs_the_whole_batch_refuses_to_accumulate():
    e = dataclasses.replace(EXPERIMENT, model=model(L1, ADVERSARY), batch_size=8, accumulate=2)
    with pytest.raises(UserError, match=r"--accumulate 1.*adaptive weight"):
        assemble(e, make_mesh(MeshShape(), jax.devices()[:1]))
    layer = dataclasses.replace(ADVERSARY, layer="decoder/last/kernel")
    with pytest.raises(UserError, match="decoder/conv_out/kernel"):
        _ = model(L1, layer).terms


def test_a_table_of_averages_follows_its_vectors_and_travels_with_the_stage(batch):
    book = ae.EmaCodebook(4, 2, decay=0.5)
    coder = Autoencoding(Coded(), (4, 4, 3))
    m = uj.Autoencoder(coder, IMAGE, (L2, ae.Commitment(0.5)), book)
    params = stirred(m.init, 0.3)
    aux = m.init_aux(params)
    terms, sums, metrics = jax.jit(lambda p: m.losses(p, aux, batch, jax.random.key(1)))(params)
    assert set(terms) == {"l2", "commitment"} and "table" not in params
    z = np.asarray(m.moments({**params, "buffers": aux}, m.modality.to_model(batch["image"])).mean)
    ids = np.asarray(nearest(jnp.asarray(z), aux["codebook"].table))
    code = np.asarray(aux["codebook"].table)[ids]
    np.testing.assert_allclose(terms["commitment"][0], 0.5 * ((z - code) ** 2).mean((1, 2, 3)), rtol=1e-4)
    new = m.settle_aux(aux, sums)["codebook"]
    np.testing.assert_allclose(new.number, 0.5 + 0.5 * np.bincount(ids.ravel(), minlength=4), rtol=1e-6)
    held = coder.of_run({**params, "buffers": {"codebook": new}})
    np.testing.assert_array_equal(held["table"], new.table)
    assert float(metrics["perplexity"][0]) >= 1


class Coded(nn.Module):
    """`Line` with a table."""

    codes: int = 4
    width: int = 2

    def setup(self):
        self.encoder, self.decoder = Ends(self.width), Ends(3)
        self.table = self.param("table", nn.initializers.normal(0.3), (self.codes, self.width))

    def encode(self, x):
        return Moments(self.encoder(x))

    def quantise(self, z):
        ids = nearest(z, self.table)
        code = rows(self.table, ids)
        return Quantised(passed(z, code), ids, apart(z, code))

    def lookup(self, ids):
        return jnp.take(self.table, ids, axis=0)

    def decode(self, z):
        return self.decoder(self.quantise(z).codes)

    def __call__(self, x):
        return self.decode(self.encode(x).mean)


def test_views_turn_and_scale_latents_with_their_images(params, batch):
    turned = ae.EqVae(1.0, 0.0, (1.0,))
    found = value(model(L2, views=turned), params, batch, "l2")
    plain = value(model(L2), params, batch, "l2")
    np.testing.assert_allclose(found, plain, rtol=1e-5)  # single pixels do not know that they were turned
    x, _, _, _, z, _ = by_hand(params, batch)
    halved = lambda v: v.reshape(4, 2, 2, 2, 2, -1).mean((2, 4))  # noqa: E731
    p = jax.device_get(params)["decoder"]["conv_out"]
    expected = np.mean((halved(x) - (halved(z) @ p["kernel"] + p["bias"])) ** 2, (1, 2, 3))
    small = value(model(L2, views=ae.EqVae(1.0, 0.0, (0.5,))), params, batch, "l2")
    np.testing.assert_allclose(small, expected, rtol=1e-3)
    scale = value(model(L1, ae.ScaleEquivariance((2,), 0.5, (L2,))), params, batch, "scale_l2")
    np.testing.assert_allclose(scale, 0.5 * expected, rtol=1e-3)


def test_latents_are_drawn_to_the_features_of_a_teacher(params, batch):
    teacher = uj.Stage("teacher", CODER, "none")
    m = model(L2, ae.VisionFeatures(teacher, 0.3, 0.2, 0.1, adaptive=False))
    kernel = np.asarray([[1.0, 0.2], [-0.3, 0.5]], np.float32)
    whole = {**params, "features": {"kernel": jnp.asarray(kernel)}, "stages": {"teacher": stirred(CODER.init, 0.5)}}
    found = value(m, whole, batch, "features")
    f = np.asarray(CODER.encode(whole["stages"]["teacher"], m.modality.to_model(batch["image"])).map).reshape(4, 16, 2)
    z = by_hand(params, batch)[4].reshape(4, 16, 2) @ kernel
    unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)  # noqa: E731
    z, f = unit(z), unit(f)
    along = np.maximum(0.8 - (z * f).sum(-1), 0).mean(-1)
    apart = np.maximum(np.abs(z @ z.swapaxes(1, 2) - f @ f.swapaxes(1, 2)) - 0.1, 0).mean((1, 2))
    np.testing.assert_allclose(found, 0.3 * (along + apart), rtol=1e-3)


@pytest.mark.nightly
def test_adaptive_weights_and_batch_norm_are_of_the_whole_batch_on_any_mesh():
    coder = dataclasses.replace(CODER, shape=(16, 16, 3))
    m = uj.Autoencoder(coder, uj.Image(16, 16), (L1, ae.Adversary(ae.PatchGan(4, 1))))
    e = dataclasses.replace(EXPERIMENT, model=m, data=uj.World(resolution=16), batch_size=8)
    one, state = first_steps(e, 1, 3)
    four, other = first_steps(dataclasses.replace(e, mesh=MeshShape(2, 2)), 4, 3)
    np.testing.assert_allclose(four, one, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.nightly
def test_a_stopped_run_of_two_players_goes_on_and_serves_as_a_latent_space(tmp_path, monkeypatch):
    on_one_device(monkeypatch)
    coder = dataclasses.replace(CODER, shape=(16, 16, 3))
    m = uj.Autoencoder(coder, uj.Image(16, 16), (L1, ae.Kl(), dataclasses.replace(ADVERSARY, start=2)))
    e = dataclasses.replace(
        EXPERIMENT, model=m, data=uj.World(resolution=16), steps=4, batch_size=4, ema=(uj.Ema(0.9),),
        checkpoint=uj.Checkpointing(every=2), preview=uj.Previews(every=4, count=2), validation=uj.Validation(every=0),
    )  # fmt: skip
    train(e, Start(tmp_path / "whole", quiet=True))
    train(dataclasses.replace(e, steps=2), Start(tmp_path / "parts", quiet=True))
    train(e, Start(tmp_path / "parts", quiet=True))
    program = assemble(e, make_mesh(MeshShape(), jax.devices()[:1]))
    states = [Checkpoints(tmp_path / n, write=False).restore(program.abstract_state()) for n in ("whole", "parts")]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)
    stage = uj.stage("ae", tmp_path / "whole")
    assert stage.model == coder
    held, _ = read_stage(stage, None, loading(program.mesh, e.rules))
    assert set(held) == {"encoder", "decoder"}
    jax.tree.map(np.testing.assert_array_equal, held["encoder"], jax.device_get(states[0].ema[0]["encoder"]))


def test_a_run_serves_as_a_latent_space_without_its_discriminator():
    m = model(L1, ae.Kl(), ADVERSARY)
    how = Loading(make_mesh(MeshShape(), jax.devices()[:1]), uj.Rules(), lambda path, ema: (params, 3))
    params = stirred(m.init)
    assert m.serves() == CODER
    folder = str(Path(__file__).parent)
    held, checksum = read_stage(uj.Stage("ae", CODER, folder), None, how)
    assert set(held) == {"encoder", "decoder"} and len(checksum) > 10
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(held), {n: jax.device_get(params[n]) for n in held})
    latents = uj.Latents(uj.Stage("ae", CODER, folder), patch=1)
    assert latents.decode({"stages": {"ae": held}}, jnp.zeros((2, 4, 4, 2))).shape == (2, 4, 4, 3)
    whole, _ = read_stage(uj.Stage("ae", m, folder), None, how)  # the model of the run itself serves too
    assert set(whole) == set(params) and uj.Latents(uj.Stage("ae", m, "x")).shape == (4, 4, 2)
    given = {"image": jnp.full((2, 4, 4, 3), 9, jnp.uint8)}
    made = m.generate(params, given, ("image",), jax.random.split(jax.random.key(0)), uj.SamplingPlan())["image"]
    expected = CODER.network.apply({"params": held}, IMAGE.to_model(given["image"]))
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)
    assert m.request((), ()) == (("image",), ("image",))


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["fsq", "lfq", "vq", "averages"])
def test_gradients_pass_through_codes_to_the_encoder(kind, batch):
    levels = ae.Levels(latents=3, widths=(4, 4), groups=2, blocks=1, middle_attention=False)
    networks = {"fsq": ae.ScalarAutoencoder(levels, ae.Fsq((4, 3, 3))), "lfq": ae.ScalarAutoencoder(levels, ae.Lfq(3))}
    network = networks.get(kind, ae.VqAutoencoder(levels, 8, 3))
    more = {"fsq": (), "lfq": (ae.Entropy(),)}.get(kind, (ae.Commitment(),))
    book = ae.EmaCodebook(8, 3) if kind == "averages" else None
    m = uj.Autoencoder(Autoencoding(network, (4, 4, 3)), IMAGE, (L2, *more), book)
    params = stirred(m.init, 0.3)

    @jax.jit
    def slope(params):
        total = lambda p: sum(jnp.mean(v) for v, _ in m.losses(p, m.init_aux(p), batch, jax.random.key(1))[0].values())  # noqa: E731
        return jax.grad(total)(params)

    found = slope(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert np.abs(found["encoder"]["conv_in"]["kernel"]).max() > 0
    assert ("table" in found) == (kind == "vq") and (kind != "vq" or np.abs(found["table"]).max() > 0)
