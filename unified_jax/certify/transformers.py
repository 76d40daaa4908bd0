"""Families of diffusion transformers: LightningDiT, UniDiffuser's U-ViT in its own layout (`uvit`) and in diffusers',
PixArt, and unCLIP's conditions."""

from collections.abc import Callable
from typing import Any

from unified_jax.certify import lightningdit, pixart, unclip, uvit

CLASSES: dict[str, Callable[..., dict[str, Any]]] = {
    "PixArtTransformer2DModel": pixart.run,
    "UnCLIPTextProjModel": unclip.run,
    "UniDiffuserModel": uvit.run_diffusers,
}
"""Class of diffusers -> run(tensors, its constructor's arguments), for the family `diffusers_model`."""

RUNNERS: dict[str, Callable[..., dict[str, Any]]] = {"uvit": uvit.run} | lightningdit.RUNNERS
"""Family -> how it is computed here, float32."""
