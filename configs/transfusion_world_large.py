"""Transfusion on the whole world, for accelerators: one object or two, with jitter, all modalities, 0.16B parameters.

    unified-jax train transfusion_world_large

Hardware: one GPU or more. Not measured yet; the aim is 0.95 in every pair (of the one-object world: --data.max-objects
1).
"""

import dataclasses
import runpy
from pathlib import Path

import unified_jax as uj

BASE = Path(__file__).parent / "transfusion_world.py"


def experiment() -> uj.Experiment:
    """transfusion_world with the paper's smallest trunk, modulated, and depth and action beside the five."""
    base: uj.Experiment = runpy.run_path(str(BASE))["experiment"]()
    model = base.model
    assert isinstance(model, uj.Transfusion)
    more = (
        uj.Stream(uj.Depth(8, 32, 32, (4, 8, 8)), uj.RectifiedFlow(target="x0")),
        uj.Stream(uj.Action(), uj.RectifiedFlow(target="x0")),
    )
    text = dataclasses.replace(model.text, length=64)
    return dataclasses.replace(
        base,
        model=dataclasses.replace(
            model,
            network=uj.trunk_preset("0.16B", modulated=True),
            text=text,
            streams=(*model.streams, *more),
            length=448,
            documents=uj.Documents(order="random", clean=0.5, alone=0.1, per_row=2),
        ),
        data=uj.World(resolution=32, max_objects=1),
        optimizer=uj.Optimization(
            uj.AdamW(b2=0.95), learning_rate=3e-4, warmup_steps=1000, schedule="cosine", clip_norm=1.0
        ),
        steps=100_000,
        batch_size=256,
    )
