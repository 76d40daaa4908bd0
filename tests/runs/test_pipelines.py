"""Stable Diffusion from the folder of a pipeline: each latent and the image are those of the published program."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unified_jax as uj
from tests.runs.pipeline_folder import away, edited, latents_of, unpack
from unified_jax.cli import convert
from unified_jax.errors import UserError
from unified_jax.interop import pipelines
from unified_jax.runs.pipelines import read_pipeline


def check_pipeline(name, folder):
    """Both schedulers, from given latents."""
    tensors, request = unpack(name, folder)
    run = uj.pipeline(folder)
    noise = jnp.moveaxis(jnp.asarray(tensors["in/latents"]), 1, -1)
    compiled = None
    for kind, place in (("pndm", "scheduler"), ("ddim", "other")):
        process, plan = pipelines.scheduler(folder / place, request["scale"])
        assert process == run.model.process
        states, compiled = latents_of(run, plan.with_steps(request["steps"], None), noise, compiled)
        theirs = np.moveaxis(tensors[f"{kind}/latents"], 2, -1)
        assert len(states) == len(theirs)
        assert max(away(ours, wanted) for ours, wanted in zip(states, theirs, strict=True)) < 2e-6
        image = jax.jit(run.model.streams[0].from_space)(run.params, states[-1])
        assert away(image, np.moveaxis(tensors[f"{kind}/decoded"], 1, -1)) < 1e-5
    return run


def test_all_latents_and_the_image_of_stable_diffusion_1_are_the_published_ones(tmp_path):
    run = check_pipeline("pipeline_sd1", tmp_path / "sd")
    model, params = run.model, run.params
    (source,) = (one.source for one in model.reads)
    empty, words = (jnp.asarray(np.stack([source.prepare(text)] * 2)) for text in ("", "a red star"))
    null = model.conditions_of(params, {}, 2)[0].value
    assert jnp.array_equal(null, model.conditions_of(params, {"text": empty}, 2)[0].value)
    shown = model.conditions_of(params, {"text": words}, 2)
    assert not jnp.allclose(null, shown[0].value)
    always = dataclasses.replace(model, drop_all=1.0)
    keys = jax.random.split(jax.random.key(0), 2)
    assert jnp.array_equal(always._dropped(shown, keys, None, params)[0].value, null)  # in training too


@pytest.mark.nightly
def test_all_latents_and_the_image_of_stable_diffusion_2_are_the_published_ones(tmp_path):
    check_pipeline("pipeline_sd2", tmp_path / "sd")


@pytest.mark.nightly
def test_a_converted_pipeline_draws_what_its_folder_draws(tmp_path, capsys):
    unpack("pipeline_sd1", tmp_path / "sd")
    convert.main([str(tmp_path / "sd"), str(tmp_path / "run")])
    assert "text encoder" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "sd" / "vae")  # a run holds its stages
    shutil.rmtree(tmp_path / "sd" / "text_encoder")
    run = uj.load(tmp_path / "run")
    made = run.sample({"text": "a red star"}, count=2, plan=run.plan(steps=3))["image"]
    other = run.sample({"text": "blue"}, count=2, plan=run.plan(steps=3))["image"]
    assert made.shape == (2, 16, 16, 3) and not np.array_equal(made, other)


CASES = {
    "a tokenizer that is missing": ("lacks tokenizer/", lambda f: shutil.rmtree(f / "tokenizer")),
    "files of a tokenizer that are missing": (
        "holds no tokenizer", lambda f: [path.unlink() for path in (f / "tokenizer").iterdir()]),
    "a second text encoder": (
        "'text_encoder_2'", lambda f: edited(f, "model_index.json", text_encoder_2=["transformers", "CLIPTextModel"])),
    "another network": (
        "expected UNet2DConditionModel", lambda f: edited(f, "model_index.json", unet=["diffusers", "UNet2DModel"])),
    "a scheduler that nobody knows": (
        "Flow is not read", lambda f: edited(f, "scheduler/scheduler_config.json", _class_name="Flow")),
    "steps of Runge and Kutta": (
        "Runge-Kutta", lambda f: edited(f, "scheduler/scheduler_config.json", skip_prk_steps=False)),
    "a noise schedule that nobody knows": (
        "beta_schedule", lambda f: edited(f, "scheduler/scheduler_config.json", beta_schedule="steep")),
    "an autoencoder of other latents": (
        "latents of its autoencoder", lambda f: edited(f, "vae/config.json", latent_channels=3)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_pipeline_that_does_not_fit_is_refused_by_name(tmp_path, case):
    words, change = CASES[case]
    unpack("pipeline_sd1", tmp_path / "sd")
    change(tmp_path / "sd")
    with pytest.raises(UserError, match=words):
        read_pipeline(tmp_path / "sd")


def test_a_folder_without_an_index_is_no_pipeline(tmp_path):
    with pytest.raises(UserError, match="so it is no pipeline"):
        read_pipeline(tmp_path)


def test_sizes_and_parts_that_are_no_model_are_a_sentence(tmp_path):
    unpack("pipeline_sd1", tmp_path / "sd")
    for size in (0, -16):
        with pytest.raises(UserError, match=f"--size is the side of an image in pixels, found {size}"):
            read_pipeline(tmp_path / "sd", size)
    edited(tmp_path / "sd", "unet/config.json", attention_head_dim=3)
    with pytest.raises(UserError, match=r"describe no model: Level\.channels \d+ is not divisible by its 3 heads"):
        read_pipeline(tmp_path / "sd")
