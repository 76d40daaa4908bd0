"""Latents as data: statistics that travel with the stage, moments computed once, a step without the autoencoder."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unified_jax as uj
from tests.helpers import EXPERIMENT, Plain, on_one_device, stirred
from tests.linear import Line
from unified_jax.data.pipeline import Pipeline
from unified_jax.errors import UserError
from unified_jax.interop import files
from unified_jax.interop.names import flatten
from unified_jax.models.autoencoding import Autoencoding
from unified_jax.models.latent_features import awake, resting
from unified_jax.models.terms import trained_on
from unified_jax.runs import latents, loop
from unified_jax.runs.checksums import content
from unified_jax.runs.encode import Request, encode
from unified_jax.runs.features import check_features
from unified_jax.runs.latent_record import check_measured, measured
from unified_jax.runs.start import Start
from unified_jax.sharding import MeshShape, make_mesh

CODER = Autoencoding(Line(), (16, 16, 3), scale=(0.5,), shift=(0.1,))
IMAGE = uj.Image(16, 16)
FIELD = "image.ae.map"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "ae.safetensors"
    files.write(path, flatten(jax.device_get(stirred(CODER.init))), {})
    return path


def recipe(weights, folder, cached=True, coder=CODER):
    data = uj.World(resolution=16, examples=40)
    stage = uj.Stage("ae", coder, str(weights))
    model = uj.Diffusion(Plain(), modality=IMAGE, drop_all=0.0, latents=uj.Latents(stage, patch=8, cached=cached))
    return dataclasses.replace(
        EXPERIMENT, model=model, data=uj.CachedFeatures(data, str(folder)) if cached else data, steps=2, batch_size=4,
        ema=EXPERIMENT.ema[:1], preview=dataclasses.replace(EXPERIMENT.preview, every=2, count=2),
        validation=uj.Validation(every=0), checkpoint=uj.Checkpointing(every=2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "moments"
    encode(recipe(weights, folder), Request(folder, quiet=True, limit=40), make_mesh(MeshShape(), jax.devices()[:1]))
    return folder


def test_a_step_from_cached_moments_is_that_of_the_data_and_holds_no_autoencoder(weights, folder):
    e, plain = recipe(weights, folder), recipe(weights, folder, cached=False)
    assert resting(e.model) == ("ae",) and [m.name for m in trained_on(e.model)] == [FIELD]
    held = Pipeline(e.data, "train", trained_on(e.model), 4, 0).batch(0).arrays
    seen = Pipeline(plain.data, "train", plain.model.modalities, 4, 0).batch(0).arrays
    whole, key = {**stirred(plain.model.init), "stages": {"ae": stirred(CODER.init)}}, jax.random.key(1)
    assert "stages" not in awake(e.model, whole)
    run = jax.jit(lambda p, q: [m.losses(*x, key)[0]["mse"][0] for m, x in ((e.model, p), (plain.model, q))])
    found, expected = run((awake(e.model, whole), {}, held), (whole, {}, seen))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_moments_of_another_stage_or_size_are_refused_and_other_statistics_are_not(weights, folder):
    e = recipe(weights, folder)
    checksum = json.loads((folder / "cache.json").read_text())["stages"]["ae"]["checksum"]
    assert checksum == content(files.read(weights))
    check_features(e, lambda stage: checksum)
    check_features(recipe(weights, folder, coder=dataclasses.replace(CODER, scale=(0.25,))), lambda stage: checksum)
    with pytest.raises(UserError, match="another stage 'ae': the checksum"):
        check_features(e, lambda stage: "0" * 64)
    wider = dataclasses.replace(CODER, network=Line(3))
    with pytest.raises(UserError, match="stage 'ae'"):
        check_features(recipe(weights, folder, coder=wider))
    with pytest.raises(ValueError, match="varies from step to step"):
        dataclasses.replace(e.model, modality=uj.Image(16, 16, fit="random_crop"))
    mirrored = dataclasses.replace(e.model, flip=True)
    with pytest.raises(UserError, match="one view"):
        _ = mirrored.terms


@pytest.mark.nightly
def test_a_run_from_cached_moments_previews_and_samples_with_the_autoencoder_of_its_folder(
    weights, folder, tmp_path, monkeypatch
):
    on_one_device(monkeypatch)
    e = recipe(weights, folder)
    assert loop.prepare(e).program.abstract_frozen() == {}
    loop.train(e, Start(tmp_path / "run", quiet=True))
    assert (tmp_path / "run/previews/step_0000002.png").is_file()
    assert uj.load(tmp_path / "run", trust=True).sample(count=1)["image"].shape == (1, 16, 16, 3)


def test_statistics_are_those_of_drawn_latents_and_belong_to_one_set_of_parameters(weights, tmp_path):
    e = recipe(weights, tmp_path, cached=False)
    params = stirred(CODER.init)
    command = latents.LatentsCommand("", each="channel", count=10, batch=4)
    found = latents.statistics(CODER, params, IMAGE, e, command)
    x = np.concatenate([Pipeline(e.data, "train", (IMAGE,), 4, 0).batch(i).arrays["image"] for i in range(3)])[:10]
    m = CODER.moments(params, IMAGE.to_model(jnp.asarray(x)))
    mean = np.asarray(m.mean).mean((0, 1, 2))
    variance = np.asarray(m.mean).var((0, 1, 2)) + np.exp(np.asarray(m.logvar)).mean((0, 1, 2))
    np.testing.assert_allclose(found["shift"], mean, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["scale"], variance**-0.5, rtol=1e-3)
    (tmp_path / "latents.json").write_text(json.dumps({**found, "checksum": "abc", "ema": "0"}))
    ours = measured(CODER, tmp_path)
    assert ours.scale == tuple(found["scale"]) and len(ours.shift) == 2
    stage = uj.Stage("ae", ours, str(tmp_path))
    check_measured(stage, ours, tmp_path, lambda: "abc")
    with pytest.raises(UserError, match="has the scale"):
        check_measured(stage, CODER, tmp_path, lambda: "abc")
    with pytest.raises(UserError, match="of other parameters"):
        check_measured(stage, ours, tmp_path, lambda: "def")
