"""quickstart at a fifth of its size: what studies compare in half a minute a run.

    python train.py world_tiny

Hardware: two CPU cores. It is the base of the studies under configs/studies/; their results are in docs/studies.md.
"""

import dataclasses
import runpy
from pathlib import Path
from typing import Any

from unified_jax.networks.dit import DiT
from unified_jax.training.experiment import Checkpointing, Experiment, Previews, Validation

BASE = Path(__file__).parent / "quickstart.py"


def experiment() -> Experiment:
    """An attribute-conditional DiT of 0.6 M parameters on the world."""
    base: Any = runpy.run_path(str(BASE))["experiment"]()
    network = DiT(depth=3, width=96, heads=4, label_std=0.25, remat="none", unroll=3)
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, network=network),
        optimizer=dataclasses.replace(base.optimizer, warmup_steps=30),
        steps=500,
        batch_size=64,
        checkpoint=Checkpointing(every=250, keep=1),
        preview=Previews(every=0, plan=base.preview.plan),
        validation=Validation(every=125, batches=4),
        evaluate=256,
    )
