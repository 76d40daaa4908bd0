"""Five backbones with the same number of parameters (within 2 %): pictures of one object from its labels.

    unified-jax ablate backbones_labels

Two CPU cores, about an hour, after the autoencoder of `world_text`. Fixed before the runs: see `backbones`.
"""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import unified_jax as uj
from unified_jax.networks.unet.levels import Level

RECIPE = runpy.run_path(str(Path(__file__).parents[1] / "world_text.py"))
DEEP = Level(136, 1, reads="itself", heads=2)
NETWORKS: dict[str, Any] = {
    "uvit": uj.UVit(depth=6, width=176, heads=8, remat="none"),
    "pixart": uj.PixArt(depth=5, width=204, heads=4, remat="none"),
    "mmdit": uj.MMDiT(depth=4, width=192, heads=4, remat="none"),
    "unet": uj.UNet(down=(Level(64, 1), DEEP), middle=DEEP, scale_shift=True, remat="none"),
}
"""Other sizes than with captions, whose tokens some networks read by further layers."""


def from_labels(experiment: uj.Experiment) -> uj.Experiment:
    """A DiT that reads four labels in the place of the caption, for 300 steps."""
    start = RECIPE["with_backbone"](experiment, "dit")
    labels = tuple(uj.Label(name, len(values), values) for name, values in uj.ATTRIBUTES if name != "motion")
    process = uj.RectifiedFlow(target="x0", times=uj.times.UniformTimes(shift=3.0))
    plan = replace(start.preview.plan, guidance=uj.Guidance(2.0))
    return replace(
        start,
        model=replace(start.model, conditions=labels, drop_some=0.2, process=process),
        preview=replace(start.preview, plan=plan),
        data=uj.World(resolution=32, max_objects=1),
        steps=300,
        checkpoint=uj.Checkpointing(every=300),
    )


def study() -> uj.Study:
    """The base is DiT with adaLN-Zero."""
    arms = {name: {"model.network": one, "optimizer": RECIPE["optimizer"]("dit")} for name, one in NETWORKS.items()}
    arms["unet"]["optimizer"] = replace(arms["unet"]["optimizer"], rule=uj.AdamW(b2=0.99), learning_rate=2e-3)
    return uj.Study(
        "world_text",
        tuple(uj.Variant(name, change) for name, change in arms.items()),
        common=from_labels,
        metrics=(uj.Metric("attribute_accuracy"),),
        seeds=3,
        samples=256,
        together="never",
        about="Equal steps; parameters are matched within 2 %, FLOPs are in the table.",
    )
