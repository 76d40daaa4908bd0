"""Families of autoencoders and their quantisers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from unified_jax.certify import Unserved, autoencoder_losses, dc_autoencoder, levels_autoencoder, oobleck, quantisers
from unified_jax.certify.options import anything, mapping, named, require

Run = Callable[[dict[str, np.ndarray], dict[str, Any]], dict[str, Any]]
TOP = {"cls": anything, "ctor": mapping, "inputs": anything, "seed": anything, "hooks": anything}
TOP |= dict.fromkeys(("x", "z", "x1", "z1"), anything)
CLASSES: dict[str, Run] = {
    "AutoencoderKL": levels_autoencoder.run_kl,
    "VQModel": levels_autoencoder.run_vq,
    "AutoencoderDC": dc_autoencoder.run,
    "AutoencoderOobleck": oobleck.run,
}
"""Class of diffusers -> how it is computed here, from its arrays and the arguments of its constructor."""


def run_diffusers(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Family `diffusers_vae`: encode, decode, reconstruct."""
    c = require(config, TOP)
    if c.get("cls") not in CLASSES:
        raise Unserved(named("cls", c.get("cls")))
    return CLASSES[c["cls"]](tensors, c.get("ctor", {}))


RUNNERS: dict[str, Run] = {
    "diffusers_vae": run_diffusers,
    "vq_ema": quantisers.run_vq_ema,
    "fsq": quantisers.run_fsq,
    "lfq": quantisers.run_lfq,
    "lpips": autoencoder_losses.run_lpips,
    "patchgan": autoencoder_losses.run_patchgan,
    "vf_loss": autoencoder_losses.run_vf,
}
"""Family -> how it is computed here, float32."""
