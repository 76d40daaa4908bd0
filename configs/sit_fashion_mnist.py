"""SiT on Fashion-MNIST (Ma et al. 2024): the velocity of the generalised variance-preserving path, sampled by its SDE.

    unified-jax data get fashion_mnist
    unified-jax train sit_fashion_mnist

Hardware and data: as dit_fashion_mnist, from which it differs in the process and the sampler alone. Measured
figures are in docs/measurements.md.
"""

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import unified_jax as uj

BASE = Path(__file__).parent / "dit_fashion_mnist.py"


def experiment() -> uj.Experiment:
    """dit_fashion_mnist with SiT's objective; Euler-Maruyama with w = sigma, last step to the mean."""
    base: Any = runpy.run_path(str(BASE))["experiment"]()
    plan = uj.SamplingPlan(uj.Sde(form="sigma", last="mean", last_size=0.04), steps=50, guidance=uj.Guidance(2.0))
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, process=uj.Interpolant("velocity", uj.paths.Gvp())),
        preview=dataclasses.replace(base.preview, plan=plan),
    )
