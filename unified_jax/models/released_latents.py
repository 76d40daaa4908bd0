"""Latent spaces of published autoencoders, as the recipes name them: sizes, scale, and where the weights lie.

    Stable Diffusion 1/2    f8, 4 channels, z 0.18215                   the space of DiT and SiT
    VA-VAE                  f16, 32 channels, (z - mean) / std          the space of LightningDiT

An autoencoder's weights are a stage's source: a folder of diffusers, or a file. Naming them opens nothing.
"""

from pathlib import Path

import numpy as np

from unified_jax.errors import UserError
from unified_jax.interop import files
from unified_jax.interop.folder import read_json
from unified_jax.models.autoencoding import SD, Autoencoding
from unified_jax.models.latents import Latents
from unified_jax.models.stages import Stage
from unified_jax.networks.autoencoders.coder import Levels
from unified_jax.networks.autoencoders.kl import KlAutoencoder

SD_VAE = "sd-vae-ft-mse"
"""Where the recipes look for Stable Diffusion's autoencoder: a folder in which it was put."""
VA_VAE = "vavae-imagenet256-f16d32-dinov2.pt"
"""The same of VA-VAE."""


def sd_latents(source: str = SD_VAE, size: int = 256, patch: int = 2, rows: int = 0) -> Latents:
    """Stable Diffusion's f8 latents of square pictures; `rows` pictures of a device pass the autoencoder at a time."""
    model = Autoencoding(KlAutoencoder(), (size, size, 3), SD.scale, SD.shift)
    return Latents(Stage("autoencoder", model, source, rows=rows), patch=patch, rows=rows)


def vavae_latents(
    source: str = VA_VAE,
    size: int = 256,
    scale: tuple[float, ...] = (1.0,),
    shift: tuple[float, ...] = (0.0,),
    rows: int = 0,
) -> Latents:
    """VA-VAE's f16 latents of 32 channels, in patches of 1.

    scale, shift    1 / standard deviation and mean of every channel over the training set (`channel_statistics`)
    """
    attends = (False, False, False, False, True)
    levels = Levels(latents=32, widths=(128, 128, 256, 256, 512), encoder_attention=attends, decoder_attention=attends)
    model = Autoencoding(KlAutoencoder(levels), (size, size, 3), scale, shift)
    return Latents(Stage("autoencoder", model, source, rows=rows), patch=1, rows=rows)


def channel_statistics(path: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(scale, shift) of every channel from a file: one that `unified-jax data latents` wrote, or of mean and std.

    The latter is latents_stats.pt of LightningDiT's authors, or the same as safetensors. Raises UserError.
    """
    if path.endswith(".json"):
        said = read_json(Path(path))
        scale, shift = (np.asarray(said.get(name, []), np.float64).reshape(-1) for name in ("scale", "shift"))
    else:
        found = files.read(Path(path))
        if not {"mean", "std"} <= set(found):
            raise UserError(f"{path!r} holds {', '.join(sorted(found))}; expected mean and std of the latents.")
        deviation, shift = (found[name].astype(np.float64).reshape(-1) for name in ("std", "mean"))
        if not (deviation > 0).all():
            raise UserError(f"{path!r} has a standard deviation that is not positive.")
        scale = 1.0 / deviation
    if not scale.size or scale.size != shift.size:
        raise UserError(f"{path!r} has {scale.size} scales and {shift.size} shifts; expected one for every channel.")
    return tuple(map(float, scale)), tuple(map(float, shift))
