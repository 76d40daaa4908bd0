"""Stable Diffusion from a folder as diffusers saves it: a run whose text encoder and autoencoder are stages.

    text --CLIP (stage "text")--> tokens --+
    noise ------------------------------> U-Net, step by step -> latents --VAE (stage "vae")--> image

The unconditional half of guidance reads the encoding of the empty prompt, as those models were trained.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax

from unified_jax.data.tfds import Tfds
from unified_jax.errors import UserError
from unified_jax.interop import pipelines, tokenizers
from unified_jax.interop.autoencoders import published
from unified_jax.modalities.image import Image
from unified_jax.models.autoencoding import Autoencoding, network_of
from unified_jax.models.clip_encoder import clip_encoder
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.latents import Latents
from unified_jax.models.stages import STAGES, Stage
from unified_jax.models.streams import Condition
from unified_jax.networks.unet.released import Released, load_unet
from unified_jax.runs.adapters import write_run
from unified_jax.runs.saved import loading
from unified_jax.runs.stages import read_stage
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.experiment import Experiment, Previews
from unified_jax.typing import Params

GUIDANCE = 7.5
"""The scale at which Stable Diffusion is shown."""
PARTS: dict[str, tuple[str, ...]] = {
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "scheduler": (
        "PNDMScheduler", "DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
    ),
}  # fmt: skip
"""Part of a pipeline -> its classes."""
MORE = ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type", "num_class_embeds", "time_cond_proj_dim")
"""Options of a U-Net that reads more than a text."""


class Pipeline(NamedTuple):
    """A pipeline as a model of ours."""

    experiment: Experiment
    params: Params
    """Of the network; its stages are read from their sources."""


def read_pipeline(folder: str | Path, size: int | None = None, dtype: Any = "float32") -> Pipeline:
    """The pipeline of a folder.

    size    side of an image in pixels; None: as the U-Net was trained
    dtype   compute dtype of all parts; their weights stay float32

    Raises UserError for parts that are missing, of other classes, or do not fit each other.
    """
    folder = Path(folder)
    if not pipelines.is_pipeline(folder):
        raise UserError(f"The folder {str(folder)!r} holds no {pipelines.INDEX}, so it is no pipeline of diffusers.")
    parts = pipelines.parts_of(folder, PARTS)
    if not any((parts["tokenizer"] / name).is_file() for name in tokenizers.FILES):
        raise UserError(f"The folder {str(parts['tokenizer'])!r} holds no tokenizer: {' or '.join(tokenizers.FILES)}.")
    process, plan = pipelines.scheduler(parts["scheduler"], GUIDANCE)
    unet = load_unet(parts["unet"])
    _check_conditions(unet, folder)
    text = clip_encoder(parts["text_encoder"], parts["tokenizer"], null="empty", name="text", dtype=dtype)
    read, wanted = text.network.width, unet.config["cross_attention_dim"]
    if wanted != read:
        raise UserError(f"The U-Net of {str(folder)!r} reads tokens of {wanted} features, its text encoder has {read}.")
    coder = _autoencoder(parts["vae"], size, unet.config["sample_size"], dtype)
    if coder.latent_shape()[-1] != unet.config["in_channels"]:
        raise UserError(
            f"The U-Net of {str(folder)!r} reads {unet.config['in_channels']} channels, and latents of its autoencoder "
            f"have {coder.latent_shape()[-1]}; a U-Net of inpainting is not served."
        )
    network: Any = unet.network.clone(dtype=dtype)
    model = Diffusion(
        network=network,
        process=process,
        modality=Image(*coder.shape, patch=1),
        conditions=(Condition(text.text, encoder=Stage("text", text, str(parts["text_encoder"]))),),
        latents=Latents(Stage("vae", coder, str(parts["vae"])), patch=1),
    )
    return Pipeline(Experiment(model=model, data=Tfds("unknown"), preview=Previews(plan=plan)), unet.params)


def _autoencoder(folder: Path, size: int | None, latent: int | None, dtype: Any) -> Autoencoding:
    cls, config, said = published.described(folder)
    network, factor = network_of(repr(str(folder)), cls, config, dtype), 2 ** (len(config["block_out_channels"]) - 1)
    side = size or factor * int(latent or 64)
    if side % factor:
        raise UserError(f"The autoencoder {str(folder)!r} takes sides that are multiples of {factor}, found {side}.")
    return Autoencoding(network, (side, side, config["in_channels"]), said.scale, said.shift)


def _check_conditions(unet: Released, folder: Path) -> None:
    for option in MORE:
        if unet.config.get(option) is not None:
            raise UserError(
                f"The U-Net of {str(folder)!r} reads more than a text ({option} = {unet.config[option]!r}); "
                "load_unet of unified_jax.networks.unet.released reads it alone."
            )


def whole_params(found: Pipeline) -> Params:
    """The parameters of the network and of the stages, on this machine's devices."""
    model, mesh = found.experiment.model, make_mesh(MeshShape())
    how = loading(mesh, found.experiment.rules)
    stages = {one.name: read_stage(one, model, how)[0] for one in model.stages}
    return {**jax.tree.map(jax.numpy.asarray, found.params), STAGES: stages}


def convert_pipeline(folder: Path, target: Path) -> str:
    """Writes a pipeline as a run and returns a message."""
    if target.suffix == ".safetensors":
        raise UserError("A pipeline becomes a run, which holds its stages: name a folder with --to.")
    found = read_pipeline(folder)
    write_run(target, found.experiment, found.params, {"source": folder.name, "layout": "diffusers pipeline"})
    count = sum(value.size for value in jax.tree.leaves(found.params))
    return f"A U-Net of {count:,} parameters, its text encoder and its autoencoder, of {folder} in {target}"
