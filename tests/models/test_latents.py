"""Models that denoise the latents of a frozen autoencoder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unified_jax as uj
from tests.helpers import TINY, Plain, stirred
from unified_jax.layers.form import NoisyInput
from unified_jax.models.autoencoding import Autoencoding
from unified_jax.models.denoising import LATENT, NOISE, TIME
from unified_jax.models.latents import Latents
from unified_jax.models.released_latents import channel_statistics, sd_latents, vavae_latents
from unified_jax.networks.autoencoders.coder import Levels
from unified_jax.networks.autoencoders.kl import KlAutoencoder
from unified_jax.networks.unet.levels import Level
from unified_jax.networks.unet.network import UNet
from unified_jax.runs import loop
from unified_jax.runs.dry_run import dry_run
from unified_jax.runs.start import Start

LEVELS = Levels(widths=(8, 8), blocks=1, latents=2, groups=4, middle_attention=False)
CODER = Autoencoding(KlAutoencoder(LEVELS), (8, 8, 3), scale=(0.5,), shift=(0.1,))
STAGE = uj.Stage("coder", CODER, "coder.safetensors")
LARGER = dataclasses.replace(STAGE, model=dataclasses.replace(CODER, shape=(16, 16, 3)))
IMAGE = uj.Image(8, 8)
MODEL = uj.Diffusion(Plain(), modality=IMAGE, drop_all=0.0, latents=Latents(STAGE))


@pytest.fixture(scope="module")
def params():
    return {**stirred(MODEL.init), "stages": {"coder": stirred(CODER.init)}}


@pytest.fixture(scope="module")
def batch():
    images = np.random.default_rng(0).integers(20, 236, (3, 8, 8, 3), np.uint8)
    return {"image": jnp.asarray(images), "slot": jnp.arange(3, dtype=jnp.int32)}


def test_the_loss_is_that_of_the_drawn_normalised_latent(params, batch):
    key = jax.random.key(1)
    found = MODEL.losses(params, {}, batch, key)[0]["mse"][0]
    slots = jax.vmap(lambda slot: jax.random.fold_in(key, slot))(batch["slot"])
    fold = lambda purpose: jax.vmap(lambda k: jax.random.fold_in(k, purpose))(slots)  # noqa: E731
    x = batch["image"].astype(jnp.float32) / 127.5 - 1
    moments = CODER.network.apply({"params": params["stages"]["coder"]}, x, method="encode")
    eps = jax.vmap(lambda k: jax.random.normal(k, (4, 4, 2)))(fold(LATENT))
    z0 = (moments.mean + moments.std * eps - 0.1) * 0.5
    noise = jax.vmap(lambda k: jax.random.normal(k, (4, 4, 2)))(fold(NOISE))
    process = MODEL.process
    t = process.draw_times(fold(TIME))
    x_t = (1 - t)[:, None, None, None] * z0 + t[:, None, None, None] * noise
    shown = NoisyInput(MODEL.streams[0].form, process.network_input(x_t, t), process.network_time(t))
    out = MODEL.call(params, (shown,), ())[0]["image"]
    wanted = process.losses(out, z0, noise, x_t, t)["mse"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    other = dataclasses.replace(MODEL, latents=Latents(STAGE, draw="mean"))
    assert np.abs(np.asarray(other.losses(params, {}, batch, key)[0]["mse"][0]) - np.asarray(found)).max() > 1e-3


def test_the_autoencoder_is_a_stage_without_a_gradient(params, batch):
    assert MODEL.stages == (STAGE,)
    slope = jax.grad(lambda p: MODEL.losses(p, {}, batch, jax.random.key(1))[0]["mse"][0].sum())(params)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(slope["stages"])) == 0
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(uj.models.stages.own(slope))) > 0


def test_samples_are_decoded_whole_or_in_pieces(params):
    keys = uj.sample_keys(0, 0, 3)
    plan = uj.SamplingPlan(uj.Euler(), steps=2)
    made = MODEL.generate(params, {}, ("image",), keys, plan)["image"]
    assert made.shape == (3, 8, 8, 3)
    denoise, process, grid, noise = MODEL.sampling(params, {}, ("image",), keys, plan)
    assert noise.shape == (3, 4, 4, 2)
    z = plan.run(denoise, process, noise, grid, keys)
    decoded = CODER.network.apply({"params": params["stages"]["coder"]}, z / 0.5 + 0.1, method="decode")
    np.testing.assert_allclose(made, decoded, atol=1e-5)
    pieces = dataclasses.replace(MODEL, latents=Latents(STAGE, rows=2))
    np.testing.assert_allclose(pieces.generate(params, {}, ("image",), keys, plan)["image"], made, atol=1e-5)


def test_a_given_latent_stream_of_several_is_the_mean(params, batch):
    image, depth = uj.Stream(IMAGE, latents=Latents(STAGE)), uj.Stream(uj.Image(8, 8, 1, name="mask"))
    x = image.to_space(params, batch["image"])
    moments = CODER.moments(params["stages"]["coder"], IMAGE.to_model(batch["image"]))
    np.testing.assert_allclose(x, (moments.mean - 0.1) * 0.5, atol=1e-6)
    np.testing.assert_allclose(image.from_space(params, x), CODER.decode(params["stages"]["coder"], x), atol=1e-6)
    assert depth.to_space(params, jnp.zeros((2, 8, 8, 1), jnp.uint8)).shape == (2, 8, 8, 1)


def test_the_latent_of_a_given_picture_is_a_condition_and_may_be_left_out(params, batch):
    before = uj.Condition(uj.Image(8, 8, name="before"), encoder=STAGE, part="map")
    network = UNet((Level(4, 1),), Level(4, 1), groups=2)
    model = uj.Diffusion(network, modality=IMAGE, conditions=(before,), latents=Latents(STAGE))
    shown = model.conditions_of(params, {"before": batch["image"]}, 3)[0]
    own = params["stages"]["coder"]
    wanted = CODER.normalised(CODER.moments(own, IMAGE.to_model(batch["image"])).mean)
    np.testing.assert_allclose(shown.value, wanted, atol=1e-6)
    assert shown.present.all()
    absent = model.conditions_of(params, {}, 3)[0]
    assert absent.value.shape == (3, 4, 4, 2) and not absent.present.any()
    assert jax.eval_shape(model.init, jax.random.key(0))["conv_in"]["kernel"].shape == (3, 3, 2 + 2, 4)


def test_a_run_trains_opens_without_the_source_and_samples(tmp_path, params, one_device, monkeypatch):
    from safetensors.numpy import save_file

    from unified_jax.interop.names import flatten

    source = tmp_path / "coder.safetensors"
    save_file({name: np.asarray(v) for name, v in flatten(params["stages"]["coder"]).items()}, source)
    stage = dataclasses.replace(STAGE, source=str(source), model=dataclasses.replace(CODER, shape=(16, 16, 3)))
    model = uj.Diffusion(Plain(), modality=uj.Image(16, 16), latents=Latents(stage))
    e = dataclasses.replace(
        TINY, model=model, steps=2, validation=uj.Validation(every=0),
        preview=dataclasses.replace(TINY.preview, every=2, count=2),
    )  # fmt: skip
    loop.train(e, Start(tmp_path / "run", quiet=True))
    source.unlink()
    run = uj.load(tmp_path / "run", trust=True)
    assert run.sample(count=2)["image"].shape == (2, 16, 16, 3)
    assert (tmp_path / "run" / "previews" / "step_0000002.png").is_file()


def test_what_does_not_fit_is_refused(params):
    with pytest.raises(ValueError, match=r"has the shape \[16, 16, 3\], the autoencoder 'coder' takes \[8, 8, 3\]"):
        uj.Diffusion(Plain(), modality=uj.Image(16, 16), latents=Latents(STAGE))
    with pytest.raises(ValueError, match="would hold its padding"):
        uj.Stream(uj.Image(8, 8, fit="pad"), latents=Latents(STAGE))
    with pytest.raises(ValueError, match="is no autoencoder"):
        Latents(uj.Stage("coder", MODEL, "x"))
    with pytest.raises(uj.UserError, match="latents have no bounds"):
        MODEL.generate(params, {}, ("image",), uj.sample_keys(0, 0, 1), uj.SamplingPlan(uj.Euler(), steps=1, clip=True))
    with pytest.raises(uj.UserError, match="is one of latents"):
        MODEL.bits(params, {}, uj.sample_keys(0, 0, 1), 2)


def test_a_dry_run_counts_an_autoencoder_that_is_not_there_yet(tmp_path):
    e = dataclasses.replace(
        TINY, model=uj.Diffusion(Plain(), modality=uj.Image(16, 16), latents=Latents(LARGER, rows=2))
    )
    said = dry_run(e, tmp_path / "run")
    numbers = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(LARGER.model.init, jax.random.key(0))))
    assert f"frozen {4 * numbers / 2**30:.3f} GiB" in said
    assert "not there yet   The stage 'coder' comes from 'coder.safetensors'" in said


@pytest.mark.nightly
def test_pictures_pass_the_encoder_in_groups_of_the_stages_rows(params, batch):
    few = Latents(dataclasses.replace(STAGE, rows=2))
    x, keys = IMAGE.to_model(batch["image"]), jax.random.split(jax.random.key(2), 3)
    whole = Latents(STAGE).encode(params, x, keys)
    np.testing.assert_allclose(few.encode(params, x, keys), whole, atol=1e-6)
    text = str(jax.make_jaxpr(lambda x: few.encode(params, x, keys))(x))
    assert "f32[2,8,8,3]" in text
    assert "f32[3,8,8,8]" not in text


def test_channel_statistics_are_those_of_either_file(tmp_path):
    from safetensors.numpy import save_file

    save_file(
        {"mean": np.full((1, 2, 1, 1), 0.5, np.float32), "std": np.asarray([[4.0, 0.5]], np.float32)},
        tmp_path / "s.safetensors",
    )
    (tmp_path / "s.json").write_text('{"scale": [0.25, 2.0], "shift": [0.5, 0.5]}')
    for name in ("s.safetensors", "s.json"):
        assert channel_statistics(str(tmp_path / name)) == ((0.25, 2.0), (0.5, 0.5))
    (tmp_path / "bad.json").write_text('{"scale": [0.25]}')
    with pytest.raises(uj.UserError, match="1 scales and 0 shifts"):
        channel_statistics(str(tmp_path / "bad.json"))
    latents = vavae_latents(scale=(0.25,) * 32, shift=(0.5,) * 32)
    assert (latents.shape, latents.cut, len(latents.model.scale)) == ((16, 16, 32), (1, 1), 32)
    assert (sd_latents(size=512).shape, sd_latents().model.scale) == ((64, 64, 4), (0.18215,))
