"""EDM on Fashion-MNIST (Karras et al. 2022): preconditioned network, lognormal noise levels, Heun's sampler.

    unified-jax data get fashion_mnist
    unified-jax train edm_fashion_mnist

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
    """dit_fashion_mnist with EDM's process; 18 levels, 35 evaluations."""
    base: Any = runpy.run_path(str(BASE))["experiment"]()
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, process=uj.Edm(sigma_data=0.7)),
        preview=dataclasses.replace(
            base.preview, plan=uj.SamplingPlan(uj.Karras(), steps=18, guidance=uj.Guidance(2.0))
        ),
    )
