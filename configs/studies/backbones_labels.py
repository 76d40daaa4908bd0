"""Five backbones with the same number of parameters (within 2 %): pictures of one object from its labels.

    python -m unified_jax.cli.ablate backbones_labels

Two CPU cores, about an hour, after the autoencoder of `world_text`. Fixed before the runs: see `backbones`.
"""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import unified_jax as uj

RECIPE = Path(__file__).parents[1] / "world_text.py"


def from_labels(experiment: uj.Experiment) -> uj.Experiment:
    """The same model, which reads four labels in the place of the caption, for 800 steps."""
    model: Any = experiment.model
    labels = tuple(uj.Label(name, len(values), values) for name, values in uj.ATTRIBUTES if name != "motion")
    return replace(
        experiment,
        model=replace(model, conditions=labels, drop_some=0.2),
        data=uj.World(resolution=32, max_objects=1),
        steps=800,
        checkpoint=uj.Checkpointing(every=800),
    )


def study() -> uj.Study:
    """The base is DiT with adaLN-Zero."""
    network = runpy.run_path(str(RECIPE))["network"]
    return uj.Study(
        "world_text",
        tuple(uj.Variant(name, {"model.network": network(name)}) for name in ("uvit", "pixart", "mmdit", "unet")),
        common=from_labels,
        metrics=(uj.Metric("attribute_accuracy"),),
        seeds=3,
        samples=512,
        together="never",
        about="Equal steps; parameters are matched within 2 % with captions, and are in the table.",
    )
