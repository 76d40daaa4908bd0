"""dit_fashion_mnist with another conditioning: adaLN without gates (DiT, section 3.2).

    unified-jax data get fashion_mnist
    unified-jax train dit_adaln_fashion_mnist

Hardware and data: as dit_fashion_mnist (adaLN-Zero), from which it differs in the conditioning alone. Measured figures
are in docs/measurements.md.
"""

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import unified_jax as uj

BASE = Path(__file__).parent / "dit_fashion_mnist.py"


def experiment() -> uj.Experiment:
    """dit_fashion_mnist with conditioning "adaln"."""
    base: Any = runpy.run_path(str(BASE))["experiment"]()
    network = dataclasses.replace(base.model.network, conditioning="adaln")
    return dataclasses.replace(base, model=dataclasses.replace(base.model, network=network))
