"""Rectified flow on Fashion-MNIST: class-conditional, velocity target, logit-normal times (Stable Diffusion 3's recipe
in small).

    unified-jax data get fashion_mnist
    unified-jax train flow_fashion_mnist

Hardware and data: as dit_fashion_mnist, from which it differs in the process alone. Measured: the first
328 steps (docs/measurements.md).
"""

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import unified_jax as uj

BASE = Path(__file__).parent / "dit_fashion_mnist.py"


def experiment() -> uj.Experiment:
    """dit_fashion_mnist with another process and sampler."""
    base: Any = runpy.run_path(str(BASE))["experiment"]()
    return dataclasses.replace(
        base,
        model=dataclasses.replace(
            base.model, process=uj.RectifiedFlow(target="velocity", times=uj.times.LogitNormalTimes())
        ),
        preview=dataclasses.replace(
            base.preview, plan=uj.SamplingPlan(uj.Euler(), steps=25, guidance=uj.Guidance(2.0))
        ),
    )
