"""Editing: transfusion_world learns to follow instructions ("make it red") from 8,000 triples of the world.

    unified-jax train world_edits --init-from runs/transfusion_world

Hardware: two CPU cores, 10 minutes. Figures are in docs/measurements.md. The instruction is read as captions are, the
edited picture is denoised as pictures are (`Tuning.like`); all of the trunk is trained.
"""

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import unified_jax as uj

BASE = Path(__file__).parent / "transfusion_world.py"


def experiment() -> uj.Experiment:
    """An instruction, a picture, the picture after it."""
    base: Any = runpy.run_path(str(BASE))["experiment"]()
    before = base.model.streams[0]
    return dataclasses.replace(
        base,
        model=dataclasses.replace(
            base.model,
            text=dataclasses.replace(base.model.text, name="instruction"),
            streams=(before, uj.Stream(uj.Image(32, 32, 3, patch=8, name="edited"), before.process)),
            documents=uj.Documents(order="given", clean_of=(("image", 1.0), ("edited", 0.0)), alone=0.1, per_row=5),
        ),
        data=dataclasses.replace(base.data, examples=8000),
        tuning=uj.Tuning(like=(("instruction", "caption"), ("edited", "image"))),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=2e-3, warmup_steps=50),
        balance=uj.FixedBalance((("text", 0.1), ("edited", 45.0))),
        steps=600,
        checkpoint=uj.Checkpointing(every=300),
        preview=uj.Previews(every=0, plan=uj.SamplingPlan(uj.Euler(), steps=25, guidance=uj.Guidance(1.5), shift=3.0)),
        validation=uj.Validation(every=300, batches=4),
        evaluate=256,
    )
