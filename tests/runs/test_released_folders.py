"""Folders as they were published: old options, several precisions side by side, other files than the class of today's.

What the reference makes of each was read from diffusers 0.42 and transformers 5.24, by loading the changed folder.
"""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.runs.pipeline_folder import edited, unpack
from unified_jax.cli import convert
from unified_jax.errors import UserError
from unified_jax.interop import pipelines, tokenizers
from unified_jax.interop.parts import find
from unified_jax.runs.lora import said_by
from unified_jax.runs.pipelines import read_pipeline

SCHEDULER = "scheduler/scheduler_config.json"
UNET = "unet/config.json"


@pytest.fixture
def folder(tmp_path):
    unpack("pipeline_sd1", tmp_path / "sd")
    return tmp_path / "sd"


def without(folder, part, *names):
    """Takes options out of a file of JSON in place."""
    config = json.loads((folder / part).read_text())
    (folder / part).write_text(json.dumps({n: v for n, v in config.items() if n not in names}))


def test_the_pipeline_of_stable_diffusion_mends_the_schedulers_of_its_first_files(folder):
    edited(folder, "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    edited(folder, SCHEDULER, _class_name="DDIMScheduler")
    without(folder, SCHEDULER, "steps_offset", "clip_sample")
    plan = read_pipeline(folder).experiment.preview.plan
    assert (plan.offset, plan.clip) == (1, False)
    assert pipelines.scheduler(folder / "scheduler", 1.0)[1].clip  # elsewhere the class' own default holds


@pytest.mark.parametrize(
    ("options", "side"),  # of the image; a latent is half of it
    [
        ({"sample_size": 32, "_diffusers_version": "0.2.2"}, 128),
        ({"sample_size": 32, "_diffusers_version": "0.10.2"}, 64),
        ({"sample_size": [8, 8]}, 16),
        ({}, 128),
    ],
)
def test_a_latent_has_the_side_that_the_pipeline_takes(folder, options, side):
    without(folder, UNET, "sample_size")
    edited(folder, UNET, **options)
    assert read_pipeline(folder).experiment.model.modality.shape == (side, side, 3)


def test_sides_of_two_lengths_are_refused(folder):
    edited(folder, UNET, sample_size=[8, 16])
    with pytest.raises(UserError, match="the side of a square"):
        read_pipeline(folder)


@pytest.mark.parametrize(("newer", "token"), [(False, "!"), (True, "<|endoftext|>")])
def test_the_token_that_fills_a_text_up_is_the_maps_unless_the_configuration_lists_its_tokens(folder, newer, token):
    """Stable Diffusion 2: "<|endoftext|>" in tokenizer_config.json, "!" in special_tokens_map.json, and "!" is used."""
    place = folder / "tokenizer"
    without(folder, "tokenizer/tokenizer_config.json", "added_tokens_decoder")
    edited(folder, "tokenizer/tokenizer_config.json", **({"added_tokens_decoder": {}} if newer else {}))
    (place / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    words = tokenizers.tokenizer_json(place)
    assert tokenizers.pad_id(place, words, -1) == tokenizers._ids(words)[token]


def test_of_several_variants_the_one_without_a_name_is_read(folder):
    whole = folder / "unet/diffusion_pytorch_model.safetensors"
    for variant in ("fp16", "non_ema"):
        shutil.copy(whole, whole.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
    assert find(folder / "unet").paths == (whole,)
    half = whole.with_name("diffusion_pytorch_model.fp16-00001-of-00002.safetensors")
    shutil.copy(whole, half)
    assert find(folder / "unet").paths == (whole,)
    whole.unlink()
    with pytest.raises(UserError, match="several sets of weights"):
        find(folder / "unet")


def test_sd3_in_bfloat16_has_its_table_of_positions(tmp_path):
    unpack("pipeline_sd3", tmp_path / "pipe")
    path = tmp_path / "pipe/transformer/diffusion_pytorch_model.safetensors"
    save_file({name: value.astype(ml_dtypes.bfloat16) for name, value in load_file(path).items()}, path)
    assert read_pipeline(tmp_path / "pipe", 16).params
    edited(tmp_path / "pipe", "transformer/config.json", sample_size=12)
    with pytest.raises(UserError, match="is not the sin-cos table"):
        read_pipeline(tmp_path / "pipe", 16)


def test_pixart_alpha_has_the_null_of_its_training_beside_its_weights(tmp_path):
    """diffusers says of the released folder: not used, ['caption_projection.y_embedding']."""
    unpack("pipeline_pixart", tmp_path / "pipe")
    path = tmp_path / "pipe/transformer/diffusion_pytorch_model.safetensors"
    found = load_file(path)
    save_file(found | {"caption_projection.y_embedding": np.ones((120, 4), np.float32)}, path)
    assert read_pipeline(tmp_path / "pipe", 16).params
    save_file(found | {"caption_projection.other": np.ones((120, 4), np.float32)}, path)
    with pytest.raises(UserError, match=r"unmapped: caption_projection\.other"):
        read_pipeline(tmp_path / "pipe", 16)


def test_the_index_says_whether_a_text_encoder_projects_its_vector(tmp_path):
    folder = tmp_path / "pipe"
    unpack("pipeline_sd3", folder)
    edited(folder, "text_encoder/config.json", architectures=["CLIPTextModel"])
    (_, pooled) = read_pipeline(folder).experiment.model.reads
    first = pooled.encoder.model.encoders[0]
    assert first.network.projection and "projection" in first.read(str(folder / "text_encoder"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--size", "17"], "multiples of 2, found 17"),  # it is read
        (["--heads", "2"], "--heads has no meaning where a pipeline"),
        (["--layout", "dit"], "--layout has no meaning where a pipeline"),
        (["--base", "run"], "--base has no meaning where a pipeline"),
        (["--ema", "none"], "--ema has no meaning where a pipeline"),
    ],
)
def test_flags_of_the_conversion_are_used_or_refused(folder, tmp_path, flags, words):
    with pytest.raises(UserError, match=words):
        convert.main(["--from", str(folder), "--to", str(tmp_path / "run"), *flags])


CASES = {
    "a class that the index does not name": ("names the scheduler PNDM", {"_class_name": "DDIMScheduler"}),
    "another range of x0": ("clip_sample_range is 2", {"_class_name": "DDIMScheduler", "clip_sample_range": 2.0}),
    "a solver of order 4": ("solver_order is 4", {"_class_name": "UniPCMultistepScheduler", "solver_order": 4}),
    "a noisy solver of order 3": (
        "solver_order is 3",
        {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 3},
    ),
    "steps whose fractions are cut off": (
        "use_beta_sigmas is not served",
        {"_class_name": "UniPCMultistepScheduler", "use_beta_sigmas": True},
    ),
    "a solver that nobody knows": (
        "solver_type is 'x'",
        {"_class_name": "DPMSolverMultistepScheduler", "solver_type": "x"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_schedulers_that_are_not_served_are_refused_by_name(folder, case):
    words, options = CASES[case]
    edited(folder, SCHEDULER, clip_sample=True, **options)
    with pytest.raises(UserError, match=words):
        pipelines.scheduler(folder / "scheduler", 1.0)


@pytest.mark.parametrize(
    ("name", "said", "form"),
    [
        ("DPMSolver", "heun", "heun"),
        ("DPMSolver", "bh2", "midpoint"),
        ("UniPC", "bh1", "bh1"),
        ("UniPC", "heun", "bh2"),
    ],
)
def test_the_type_of_another_solver_means_the_solvers_own(tmp_path, name, said, form):
    config = {"_class_name": f"{name}MultistepScheduler", "solver_type": said}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    assert pipelines.scheduler(tmp_path, 1.0)[1].sampler.form == form


def test_a_lora_file_of_diffusers_says_its_scale_in_its_header(tmp_path):
    path = tmp_path / "pytorch_lora_weights.safetensors"
    arrays = {"unet.conv_in.lora_A.weight": np.ones((2, 4, 3, 3), np.float32)}
    options = {"unet.r": 2, "unet.lora_alpha": 16, "unet.use_rslora": True, "text_encoder.lora_alpha": 3}
    save_file(arrays, path, {"format": "pt", "lora_adapter_metadata": json.dumps(options)})
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 5}')
    assert said_by(path, "unet") == {"r": 2, "lora_alpha": 16, "use_rslora": True}
    save_file(arrays, path, {"lora_adapter_metadata": json.dumps({"r": 2, "lora_alpha": 8})})  # of one network
    assert said_by(path, "unet")["lora_alpha"] == 8
    save_file(arrays, path, {"format": "pt"})
    assert said_by(path, "unet") == {"lora_alpha": 5}
    save_file(arrays, path, {"lora_adapter_metadata": "{"})
    with pytest.raises(UserError, match="cannot be read"):
        said_by(path, "unet")
