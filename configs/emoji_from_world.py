"""A DiT that was trained on the world (quickstart) learns emoji: 64 px, nine groups, two styles.

    unified-jax data get emoji
    unified-jax train emoji_from_world --init-from runs/quickstart

Hardware: two CPU cores, 3 minutes for what docs/finetuning.md shows; a GPU for good pictures. The network is the
quickstart's transformer, on four times as many patches; only the tables of the labels start anew.
"""

import dataclasses
import runpy
from pathlib import Path

import unified_jax as uj

HERE = Path(__file__).parent


def experiment() -> uj.Experiment:
    """dit_emoji's data, process and plan with quickstart's transformer."""
    emoji: uj.Experiment = runpy.run_path(str(HERE / "dit_emoji.py"))["experiment"]()
    world: uj.Experiment = runpy.run_path(str(HERE / "quickstart.py"))["experiment"](sharp=False)
    assert isinstance(emoji.model, uj.Diffusion)
    assert isinstance(world.model, uj.Diffusion)
    return dataclasses.replace(
        emoji,
        model=dataclasses.replace(emoji.model, network=world.model.network),
        tuning=uj.Tuning(fresh=("^label_",)),
        optimizer=dataclasses.replace(emoji.optimizer, learning_rate=2e-3, warmup_steps=30),
        ema=world.ema,
        steps=300,
        checkpoint=uj.Checkpointing(every=150),
        preview=dataclasses.replace(emoji.preview, every=0),
        validation=uj.Validation(every=100, batches=4),
    )
