"""quickstart at a fifth of its size: what studies compare in half a minute a run.

    unified-jax train world_tiny

Hardware: two CPU cores. It is the base of the studies under configs/studies/; their results are in docs/studies.md.
"""

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import unified_jax as uj

BASE = Path(__file__).parent / "quickstart.py"


def experiment() -> uj.Experiment:
    """An attribute-conditional DiT of 0.6 M parameters on the world."""
    base: Any = runpy.run_path(str(BASE))["experiment"](sharp=False)
    network = uj.DiT(depth=3, width=96, heads=4, label_std=0.25, remat="none", unroll=3)
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, network=network),
        optimizer=dataclasses.replace(base.optimizer, warmup_steps=30),
        steps=500,
        batch_size=64,
        checkpoint=uj.Checkpointing(every=250, keep=1),
        preview=uj.Previews(every=0, plan=base.preview.plan),
        validation=uj.Validation(every=125, batches=4),
        evaluate=256,
    )
