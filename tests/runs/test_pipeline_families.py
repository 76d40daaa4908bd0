"""PixArt, SD3, SDXL and Flux from the folder of a pipeline: latents and images are those of diffusers' own call.

The files are of tests/goldens/make_pipeline_families.py: the prompt has upper case and a blank before it, which PixArt
lowers and takes off and the other T5s read; SD3's second tokenizer fills texts up with another token than the first.
"""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unified_jax as uj
from tests.runs.pipeline_folder import away, edited, latents_of, unpack
from unified_jax.cli import convert
from unified_jax.errors import UserError
from unified_jax.interop import pipelines, transformer_options
from unified_jax.interop.flow_scheduler import flow_scheduler
from unified_jax.modalities.prompts import joined
from unified_jax.models.text_encoders import TextEncoders
from unified_jax.runs.pipelines import read_pipeline

STATES, IMAGE = 2e-5, 1e-4
"""Largest difference of a latent and of the decoded image, as a share of the largest number."""


def check_family(name, folder, case="plain", given=None, shown=False, run=None):
    """The run; from given latents, all states and the image of a case."""
    tensors, request = unpack(name, folder)
    run = run or uj.pipeline(folder, size=request["size"])
    plan = run.plan(steps=request["steps"])
    plan = plan if name == "pipeline_flux" else plan.with_steps(None, request["scale"])
    noise = jnp.moveaxis(jnp.asarray(tensors["in/latents"]), 1, -1)
    given = {"text": request["prompt"]} | (given or {})
    states, _ = latents_of(run, plan, noise, None, given, shown)
    theirs = np.moveaxis(tensors[f"{case}/latents"], 2, -1)
    assert len(states) == len(theirs) == request["steps"]
    found = [away(ours, wanted) for ours, wanted in zip(states, theirs, strict=True)]
    assert max(found) < STATES, found
    image = jax.jit(run.model.streams[0].from_space)(run.params, states[-1])
    assert away(image, np.moveaxis(tensors[f"{case}/decoded"], 1, -1)) < IMAGE
    return run


@pytest.mark.nightly
def test_all_latents_and_the_image_of_pixart_alpha_are_the_published_ones(tmp_path):
    run = check_family("pipeline_pixart", tmp_path / "pipe", shown=True)
    assert [c.label for c in run.model.reads] == ["text", "size", "aspect"]  # told at 1024 pixels
    assert run.plan().steps == 20 and run.plan().guidance.scale == 4.5


@pytest.mark.nightly
def test_all_latents_and_the_image_of_pixart_sigma_are_the_published_ones(tmp_path):
    run = check_family("pipeline_sigma", tmp_path / "pipe", shown=True)
    assert [(c.label, c.form.length) for c in run.model.reads] == [("text", 300)]


def test_all_latents_and_the_image_of_stable_diffusion_3_are_the_published_ones(tmp_path):
    run = check_family("pipeline_sd3", tmp_path / "pipe")
    assert [c.form.length for c in run.model.reads] == [77 + 256, 1]
    assert run.plan().steps == 28 and run.plan().guidance.scale == 7.0


@pytest.mark.nightly
def test_all_latents_and_the_image_of_sdxl_are_the_published_ones_away_from_zeros_and_from_the_empty_prompt(tmp_path):
    run = check_family("pipeline_sdxl", tmp_path / "pipe")
    told = {"sizes": np.asarray([20, 24, 1, 2, 16, 16]), "negative.text": ""}
    check_family("pipeline_sdxl", tmp_path / "pipe", "told", told, run=run)
    edited(tmp_path / "pipe", "model_index.json", force_zeros_for_empty_prompt=False)
    empty = uj.pipeline(tmp_path / "pipe", size=16)
    assert [c.form.null for c in empty.model.reads] == ["empty", "empty", "default"]


@pytest.mark.nightly
def test_all_latents_and_the_image_of_flux_are_the_published_ones(tmp_path):
    run = check_family("pipeline_flux", tmp_path / "pipe")
    assert run.plan().guidance.scale == 1.0
    (told,) = (c for c in run.model.reads if c.label == "guidance")
    assert told.source.default == (3.5,)


@pytest.mark.nightly
def test_a_converted_sd3_draws_what_its_folder_draws(tmp_path):
    unpack("pipeline_sd3", tmp_path / "pipe")
    run = uj.pipeline(tmp_path / "pipe")
    wanted = run.sample({"text": "a red star"}, count=1, plan=run.plan(steps=2))["image"]
    convert.main([str(tmp_path / "pipe"), str(tmp_path / "run")])
    shutil.rmtree(tmp_path / "pipe")  # a run holds its stages
    run = uj.load(tmp_path / "run")
    found = run.sample({"text": "a red star"}, count=1, plan=run.plan(steps=2))["image"]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("said", "outputs"), [({}, 8), ({"out_channels": None}, 4), ({"out_channels": 4}, 4)])
def test_outputs_of_a_pixart_are_those_of_its_class(said, outputs):
    """PixArtTransformer2DModel has eight by default, and as many as its inputs where its configuration says null."""
    options = transformer_options.pixart({"cross_attention_dim": 1152} | said, "config.json")
    assert options.outputs == outputs


def test_sd3_without_t5_reads_zeros_in_its_place(tmp_path):
    folder = tmp_path / "pipe"
    unpack("pipeline_sd3", folder)
    edited(folder, "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    (tokens, _) = read_pipeline(folder).experiment.model.reads
    encoder = tokens.encoder.model
    assert (tokens.form.length, tokens.form.features) == (77 + 256, 24)
    ids = jnp.asarray(tokens.source.prepare("red"))[None]
    found = jax.jit(encoder.encode)(encoder.read(str(folder)), ids)
    assert np.any(found.tokens[0, :77, :20]) and not np.any(found.tokens[0, :77, 20:])
    assert not np.any(found.tokens[0, 77:])


@pytest.mark.parametrize(
    ("options", "even", "expected"),
    [  # of FlowMatchEulerDiscreteScheduler.set_timesteps(4): static, dynamic (mu of 16 tokens), and Flux's own times
        ({"shift": 3.0}, False, [1.0, 0.8576923, 0.6021506, 0.0089286, 0.0]),
        ({"use_dynamic_shifting": True}, False, [1.0, 0.7602449, 0.4425613, 0.0015822, 0.0]),
        (
            {"use_dynamic_shifting": True, "time_shift_type": "linear"},
            True,
            [1.0, 0.5795006, 0.3147751, 0.1327913, 0.0],
        ),
    ],
)
def test_times_of_a_flow_are_the_published_ones(tmp_path, options, even, expected):
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler"} | options
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    process, plan = flow_scheduler(tmp_path, 1.0, 4, 16, even)
    np.testing.assert_allclose(plan.prepare(process)[1], expected, atol=1e-7)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
@pytest.mark.parametrize(
    ("options", "steps"),  # of DPMSolverMultistepScheduler.set_timesteps(4) in diffusers 0.42
    [
        ({}, [999, 749, 500, 250]),
        ({"timestep_spacing": "leading", "steps_offset": 1}, [801, 601, 401, 201]),
        ({"timestep_spacing": "trailing"}, [999, 749, 499, 249]),
    ],
)
def test_steps_of_multistep_solvers_are_the_published_ones(tmp_path, name, options, steps):
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": name} | options))
    process, plan = pipelines.scheduler(tmp_path, 1.0, 4)
    levels, grid = plan.prepare(process)
    assert grid[-1] == 0
    np.testing.assert_allclose(levels.network_time(jnp.asarray(grid[:-1])), steps, atol=2e-3)
    whole, grid = dataclasses.replace(plan, sampler=uj.Ddim()).prepare(process)  # another sampler takes the same
    assert [int(whole.network_time(jnp.asarray(i))) for i in grid[:-1]] == steps and grid[-1] == -1


FLOW = "scheduler/scheduler_config.json"
CASES = {
    "a second text encoder that is missing": (
        "sd3", "lacks text_encoder_2/", lambda f: shutil.rmtree(f / "text_encoder_2")),
    "a transformer of another class": (
        "sd3", "expected SD3Transformer2DModel",
        lambda f: edited(f, "model_index.json", transformer=["diffusers", "FluxTransformer2DModel"])),
    "a part that nobody reads": (
        "pixart", "'adapter', which is not read", lambda f: edited(f, "model_index.json", adapter=["a", "T2IAdapter"])),
    "a scheduler that is no flow": ("sd3", "expected FlowMatch", lambda f: edited(f, FLOW, _class_name="Euler")),
    "a flow of noise drawn anew": (
        "sd3", "stochastic_sampling is True", lambda f: edited(f, FLOW, stochastic_sampling=True)),
    "a shift between equal lengths": (
        "sd3", "expected two lengths",
        lambda f: edited(f, FLOW, use_dynamic_shifting=True, base_image_seq_len=256, max_image_seq_len=256)),
    "a last time that is stretched": ("sd3", "shift_terminal is 0.1", lambda f: edited(f, FLOW, shift_terminal=0.1)),
    "a solver of lambdas": ("pixart", "use_lu_lambdas is True", lambda f: edited(f, FLOW, use_lu_lambdas=True)),
    "a solver that ends above the data": (
        "pixart", "final_sigmas_type is 'sigma_min'", lambda f: edited(f, FLOW, final_sigmas_type="sigma_min")),
    "a text encoder of other features": (
        "pixart", "reads tokens of 8 features", lambda f: edited(f, "transformer/config.json", caption_channels=8)),
    "vectors of other features": (
        "sd3", "reads a vector of 9 features", lambda f: edited(f, "transformer/config.json", pooled_projection_dim=9)),
    "another norm": (
        "pixart", "norm_type is 'ada_norm'", lambda f: edited(f, "transformer/config.json", norm_type="ada_norm")),
    "an autoencoder of other latents": (
        "sd3", "latents of its autoencoder", lambda f: edited(f, "vae/config.json", latent_channels=3)),
    "a table of positions of another size": (
        "sd3", "pos_embed", lambda f: edited(f, "transformer/config.json", pos_embed_max_size=8)),
    "no tokenizer": ("sd3", "holds no tokenizer", lambda f: [p.unlink() for p in (f / "tokenizer_3").iterdir()]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_family_that_does_not_fit_is_refused_by_name(tmp_path, case):
    name, words, change = CASES[case]
    unpack(f"pipeline_{name}", tmp_path / "pipe")
    change(tmp_path / "pipe")
    with pytest.raises(UserError, match=words):
        read_pipeline(tmp_path / "pipe", 16)


def test_a_size_that_the_autoencoder_or_the_patches_do_not_divide_is_refused(tmp_path):
    unpack("pipeline_sd3", tmp_path / "pipe")
    with pytest.raises(UserError, match="multiples of 4, found 18"):
        read_pipeline(tmp_path / "pipe", 18)


def test_text_encoders_that_do_not_fit_are_refused(tmp_path):
    unpack("pipeline_sd3", tmp_path / "pipe")
    clip, other, t5 = read_pipeline(tmp_path / "pipe").experiment.model.reads[0].encoder.model.encoders
    with pytest.raises(ValueError, match="reads each of its 2"):
        TextEncoders((clip, other), ((0,),), ())
    with pytest.raises(ValueError, match="one length"):
        TextEncoders((clip, t5), ((0, 1),), (0,))
    with pytest.raises(ValueError, match="at least 20"):
        TextEncoders((clip, other), ((0, 1),), (0,), width=19)
    with pytest.raises(ValueError, match="one field"):
        joined((clip.text, uj.Text(name="other")))
