"""DiT-XL/2 on ImageNet at 512 px: the published recipe (Peebles & Xie 2022), 1,024 tokens.

    unified-jax train dit_xl2_imagenet512 --data.path DATA --vae VAE --mesh.fsdp 8

As dit_xl2_imagenet256, with its data, autoencoder and hardware, on latents of 64 x 64. The paper trains 3 M steps of
256 examples: FID-50K 3.04 with guidance 1.5 (their figure; nothing was measured here).
"""

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import unified_jax as uj
from unified_jax.models.released_latents import SD_VAE

BASE = Path(__file__).parent / "dit_xl2_imagenet256.py"


def experiment(vae: str = SD_VAE, classes: int = 1000) -> uj.Experiment:
    """dit_xl2_imagenet256 at 512 px."""
    base: Any = runpy.run_path(str(BASE))["experiment"](vae, 512, classes)
    return dataclasses.replace(base, steps=3_000_000)
