"""Published diffusion models of latents as runs: their own layouts, and an autoencoder beside them.

A model of latents draws latents; with an autoencoder's weights its run draws pictures, in training and from the
command line, as one that was trained here.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unified_jax.data.tfds import Tfds
from unified_jax.errors import UserError
from unified_jax.interop import lightningdit
from unified_jax.interop.dit_sizes import classes_of
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.autoencoding import SD, autoencoder
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.latents import Latents
from unified_jax.models.stages import Stage
from unified_jax.networks.dit import DiT
from unified_jax.networks.lightningdit import flow
from unified_jax.precision import seed_key
from unified_jax.runs.exports import described_process
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.training.experiment import Experiment, Previews
from unified_jax.typing import Params

PLAN = SamplingPlan(Euler(), steps=249, shift=1 / 0.3, guidance=Guidance(6.7, high=0.875, channels=3))
"""LightningDiT's published samples after 800 epochs, at 250 times. Its times count from noise: a shift of 0.3 is one of
1 / 0.3 here, and guidance from 0.125 on ends at 0.875."""


def with_autoencoder(experiment: Experiment, source: str) -> Experiment:
    """The experiment of a model of latents, denoised beside this autoencoder and drawn as its pictures.

    source  a folder of diffusers, which says the scale of its latents; or a file of Stable Diffusion's autoencoder

    Raises UserError for one of other latents.
    """
    model: Any = experiment.model
    image = model.modality
    path = Path(source)
    found = autoencoder(path, None if path.is_dir() else SD)[0]
    factor = found.shape[0] // found.latent_shape()[0]
    side = image.height * factor
    found = dataclasses.replace(found, shape=(side, side, found.shape[-1]))
    if found.latent_shape() != image.shape:
        raise UserError(
            f"{source!r} has latents {list(found.latent_shape())} of pictures of {side} pixels; the model is one of "
            f"{list(image.shape)}."
        )
    if not path.is_dir() and image.channels != 4:
        raise UserError(f"{source!r} does not say the scale of its {image.channels} channels: give a folder that does.")
    latents = Latents(Stage("autoencoder", found, source, rows=8), patch=image.patch, rows=8)
    pictures = Image(side, side, found.shape[-1], patch=factor * image.patch, fit="center_crop")
    return dataclasses.replace(experiment, model=dataclasses.replace(model, modality=pictures, latents=latents))


def lightningdit_of(
    what: str, tensors: dict[str, np.ndarray], told: dict[str, Any], asked: tuple[int | None, int | None], trust: bool
) -> tuple[Experiment, Params]:
    """(experiment, parameters) of a published LightningDiT, with its published sampler.

    told    what the file says of its model
    asked   heads and classes of the command line

    Raises UserError for weights that do not fit.
    """
    config, (heads, classes) = told.get("config", {}), asked
    layout = lightningdit.measure(tensors, what, config.get("num_heads") if heads is None else heads)
    sizes = layout.sizes
    classes = classes_of(sizes.rows, config.get("num_classes") if classes is None else classes)
    if classes == sizes.rows or sizes.outputs != 1:
        raise UserError(f"{what} has no null class, or a learned variance, which no published LightningDiT has.")
    process = described_process(told, "lightningdit", sizes, trust) or flow()
    side = sizes.side * sizes.patch
    image, network = Image(side, side, sizes.channels, sizes.patch), DiT(**layout.fields())
    model = Diffusion(network, process, image, (Label("label", classes),), flip=True)
    params = lightningdit.read(what, tensors, layout, jax.eval_shape(model.init, seed_key(0)))
    return Experiment(model=model, data=Tfds("unknown"), preview=Previews(plan=PLAN)), params
