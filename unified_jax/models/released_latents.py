"""Latent spaces of published autoencoders, as the recipes name them: sizes, scale, and where the weights lie.

    Stable Diffusion 1/2    f8, 4 channels, z 0.18215                   the space of DiT and SiT
    VA-VAE                  f16, 32 channels, (z - mean) / std          the space of LightningDiT

An autoencoder's weights are a stage's source: a folder of diffusers, or a file. Naming them opens nothing.
"""

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

    scale, shift    1 / standard deviation and mean of every channel over the training set; no file holds them
    """
    attends = (False, False, False, False, True)
    levels = Levels(latents=32, widths=(128, 128, 256, 256, 512), encoder_attention=attends, decoder_attention=attends)
    model = Autoencoding(KlAutoencoder(levels), (size, size, 3), scale, shift)
    return Latents(Stage("autoencoder", model, source, rows=rows), patch=1, rows=rows)
