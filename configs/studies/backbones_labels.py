"""Five backbones with the same number of parameters (within 2 %): pictures of one object from its labels.

    unified-jax ablate backbones_labels

Two CPU cores, about two hours, after the autoencoder of `world_text`. Fixed before the runs: see `backbones`.
"""

from dataclasses import replace
from typing import Any

import unified_jax as uj
from unified_jax.networks.unet.levels import Level

WIDE, DEEP = Level(48, reads="tokens", heads=4), Level(84, reads="tokens", heads=4)
NETWORKS: dict[str, Any] = {
    "uvit": uj.UVit(depth=6, width=176, heads=8, remat="none"),
    "pixart": uj.PixArt(depth=5, width=204, heads=4, remat="none"),
    "mmdit": uj.MMDiT(depth=4, width=192, heads=4, remat="none"),
    "unet": uj.UNet(down=(WIDE, DEEP), middle=DEEP, remat="none"),
}
"""Other sizes than with captions, whose tokens some networks read by further layers."""


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
    return uj.Study(
        "world_text",
        tuple(uj.Variant(name, {"model.network": network}) for name, network in NETWORKS.items()),
        common=from_labels,
        metrics=(uj.Metric("attribute_accuracy"),),
        seeds=3,
        samples=512,
        together="never",
        about="Equal steps; parameters are matched within 2 %, FLOPs are in the table.",
    )
