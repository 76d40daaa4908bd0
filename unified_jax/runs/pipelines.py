"""Folders as diffusers saves them: runs whose text encoders and autoencoder are stages.

    text --CLIP, T5 (stage "text")--> tokens, vector --+
    noise ---------------------------------> U-Net or transformer, step by step -> latents --VAE (stage "vae")--> image

The unconditional half of guidance reads what those models were trained with: the encoding of the empty prompt, or
zeros (SDXL). A folder's index says its family; PixArt, SD3 and Flux are in `runs.transformer_pipelines`.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from unified_jax.errors import UserError
from unified_jax.interop import pipelines
from unified_jax.interop.folder import Settings
from unified_jax.models.clip_encoder import clip_encoder
from unified_jax.models.stages import STAGES, Stage
from unified_jax.models.streams import Condition
from unified_jax.networks.unet.released import Released, load_unet
from unified_jax.runs.adapters import write_run
from unified_jax.runs.pipeline_parts import (
    CLIP,
    CLIP_TOKENIZER,
    KL,
    PROJECTED,
    TEXT,
    Pipeline,
    Request,
    assembled,
    check_features,
    check_tokenizers,
    coder_of,
    joined_encoders,
    pipeline_of,
    prompt_conditions,
    sizes_condition,
)
from unified_jax.runs.saved import loading
from unified_jax.runs.stages import read_stage
from unified_jax.runs.transformer_pipelines import read_flux, read_pixart, read_sd3
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.typing import Params

GUIDANCE = 7.5
"""The scale at which Stable Diffusion is shown."""
SCHEDULERS = (
    "PNDMScheduler", "DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
PARTS: dict[str, tuple[str, ...]] = {
    "text_encoder": CLIP,
    "tokenizer": CLIP_TOKENIZER,
    "unet": ("UNet2DConditionModel",),
    "vae": KL,
    "scheduler": SCHEDULERS,
}
"""Part of a pipeline -> its classes."""
XL_PARTS = PARTS | {"text_encoder_2": PROJECTED, "tokenizer_2": CLIP_TOKENIZER}
"""Of SDXL."""
OLD_SCHEDULER = {"steps_offset": 1, "clip_sample": False}
"""What the pipeline of Stable Diffusion 1 and 2 sets whatever its scheduler's file says: old files lack both."""
MORE = ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type", "num_class_embeds", "time_cond_proj_dim")
"""Options of a U-Net that reads more than a text."""


def read_pipeline(folder: str | Path, size: int | None = None, dtype: Any = "float32") -> Pipeline:
    """The pipeline of a folder.

    size    side of an image in pixels; None: as the network was trained
    dtype   compute dtype of all parts; their weights stay float32

    Raises UserError for parts that are missing, of other classes, or do not fit each other.
    """
    folder = Path(folder)
    if not pipelines.is_pipeline(folder):
        raise UserError(f"The folder {str(folder)!r} holds no {pipelines.INDEX}, so it is no pipeline of diffusers.")
    if size is not None and size < 1:
        raise UserError(f"--size is the side of an image in pixels, found {size}.")
    asked = Request(folder, size, dtype)
    try:
        return FAMILIES.get(pipelines.class_of(folder), read_stable_diffusion)(asked)
    except ValueError as error:  # of a network's own check
        raise UserError(f"The parts of {str(folder)!r} describe no model: {str(error).rstrip('.')}.") from None


def read_stable_diffusion(asked: Request) -> Pipeline:
    """Stable Diffusion 1.x or 2.x."""
    folder = asked.folder
    parts = pipelines.parts_of(folder, PARTS)
    check_tokenizers(parts)
    process, plan = pipelines.scheduler(parts["scheduler"], GUIDANCE, fixed=OLD_SCHEDULER)
    unet = load_unet(parts["unet"])
    _check_conditions(unet, folder)
    source = parts["text_encoder"]
    text = clip_encoder(source, parts["tokenizer"], null="empty", name=TEXT, dtype=asked.dtype)
    check_features(asked, "tokens", unet.config["cross_attention_dim"], text.network.width)
    coder = coder_of(asked, parts["vae"], _latent_side(unet, folder, old=64), unet.config["in_channels"])
    network: Any = unet.network.clone(dtype=asked.dtype)
    prompt = Condition(text.text, encoder=Stage(TEXT, text, str(source)))
    return pipeline_of(assembled(coder, network, process, (prompt,)), plan, unet.params)


def read_sdxl(asked: Request) -> Pipeline:
    """Stable Diffusion XL's base: guided at 5, away from zeros or from the empty prompt as its index says.

    The picture's original size, its crop's corner and its size in pixels are the condition "sizes".
    """
    folder = asked.folder
    parts = pipelines.parts_of(folder, XL_PARTS)
    check_tokenizers(parts)
    process, plan = pipelines.scheduler(parts["scheduler"], 5.0)
    unet = load_unet(parts["unet"])
    _check_conditions(unet, folder, "addition_embed_type")
    clips = tuple(
        clip_encoder(
            parts[f"text_encoder{n}"],
            parts[f"tokenizer{n}"],
            projected=n == "_2",
            skip=1,
            norm=False,
            name=TEXT,
            dtype=asked.dtype,
        )
        for n in ("", "_2")
    )
    null = "zero" if pipelines.zeroed(folder) else "empty"
    text = joined_encoders(asked, clips, ((0, 1),), (1,), null=null)
    check_features(asked, "tokens", unet.config["cross_attention_dim"], text.widest)
    vector = text.condition_form("pooled").features
    told = unet.config["projection_class_embeddings_input_dim"] - 6 * unet.config["addition_time_embed_dim"]
    check_features(asked, "six sizes and a vector", told, vector)
    coder = coder_of(asked, parts["vae"], _latent_side(unet, folder), unet.config["in_channels"])
    sizes = sizes_condition("sizes", coder.side, coder.side, 0.0, 0.0, coder.side, coder.side)
    network: Any = unet.network.clone(dtype=asked.dtype)
    model = assembled(coder, network, process, (*prompt_conditions(asked, text), sizes))
    return pipeline_of(model, plan, unet.params)


FAMILIES: dict[str, Callable[[Request], Pipeline]] = {
    "PixArtAlphaPipeline": read_pixart,
    "PixArtSigmaPipeline": read_pixart,
    "StableDiffusion3Pipeline": read_sd3,
    "StableDiffusionXLPipeline": read_sdxl,
    "FluxPipeline": read_flux,
}
"""Class of a pipeline -> how it is read; others have the parts of Stable Diffusion 1 and 2, or are refused."""


def _check_conditions(unet: Released, folder: Path, told: str = "") -> None:
    """Raises UserError for a U-Net with conditions other than a text and `told`, an option that adds text and sizes."""
    if told and unet.config.get(told) != "text_time":
        raise UserError(
            f"The U-Net of {str(folder)!r} reads no sizes ({told} = {unet.config.get(told)!r}); expected 'text_time'."
        )
    for option in (one for one in MORE if one != told):
        if unet.config.get(option) is not None:
            raise UserError(
                f"The U-Net of {str(folder)!r} reads more than a text ({option} = {unet.config[option]!r}); "
                "load_unet of unified_jax.networks.unet.released reads it alone."
            )


def _latent_side(unet: Released, folder: Path, old: int = 0) -> int | None:
    """The side of the latents that a U-Net was trained on, None where it says none.

    old   what a smaller one of a file before diffusers 0.9 means: Stable Diffusion 1's first files say 32

    Raises UserError for sides of two lengths.
    """
    side, version = unet.config.get("sample_size"), str(unet.config.get("_diffusers_version", "1"))
    if side is None:
        return None
    if type(side) is int and side < old and re.match(r"0\.[0-8](\D|$)", version):
        return old
    return Settings(unet.config, f"The U-Net of {str(folder)!r}").side("sample_size", 64)


def whole_params(found: Pipeline) -> Params:
    """The parameters of the network and of the stages, on this machine's devices."""
    model, mesh = found.experiment.model, make_mesh(MeshShape())
    how = loading(mesh, found.experiment.rules)
    stages = {one.name: read_stage(one, model, how)[0] for one in model.stages}
    return {**jax.tree.map(jax.numpy.asarray, found.params), STAGES: stages}


def convert_pipeline(folder: Path, target: Path, size: int | None = None) -> str:
    """Writes a pipeline as a run and returns a message. `size` as in `read_pipeline`."""
    if target.suffix == ".safetensors":
        raise UserError("A pipeline becomes a run, which holds its stages: name a folder with --to.")
    found = read_pipeline(folder, size)
    write_run(target, found.experiment, found.params, {"source": folder.name, "layout": "diffusers pipeline"})
    count = sum(value.size for value in jax.tree.leaves(found.params))
    return f"A network of {count:,} parameters, its text encoder and its autoencoder, of {folder} in {target}"
