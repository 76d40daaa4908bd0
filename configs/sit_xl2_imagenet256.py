"""SiT-XL/2 on ImageNet at 256 px (Ma et al. 2024): the straight path's velocity, sampled by its SDE.

    unified-jax train sit_xl2_imagenet256 --data.path DATA --vae VAE --mesh.fsdp 8

As dit_xl2_imagenet256, with its data, autoencoder and hardware. The network counts time from noise (0) to data (1), as
the published one does. The paper trains 7 M steps of 256 examples: FID-50K 8.3 without guidance (SDE), with guidance
1.5 2.15 (ODE) and 2.06 (SDE) (their figures; nothing was measured here).
"""

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import unified_jax as uj
from unified_jax.models.released_latents import SD_VAE

BASE = Path(__file__).parent / "dit_xl2_imagenet256.py"


def experiment(vae: str = SD_VAE, classes: int = 1000) -> uj.Experiment:
    """dit_xl2_imagenet256 with SiT's objective; Euler-Maruyama with w = sigma, 250 steps, the last one to the mean."""
    base: Any = runpy.run_path(str(BASE))["experiment"](vae, classes=classes)
    sampler = uj.Sde(form="sigma", last="mean", last_size=0.04)
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, process=uj.Interpolant(time_scale=1.0, reversed_time=True)),
        preview=dataclasses.replace(
            base.preview, plan=uj.SamplingPlan(sampler, steps=250, guidance=uj.Guidance(1.5, channels=3))
        ),
    )
