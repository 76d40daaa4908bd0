"""Five backbones with the same number of parameters (within 2 %): pictures of one object or two from captions.

    unified-jax ablate backbones
    unified-jax ablate backbones_labels                the same from labels

Each is trained by the optimizer that `world_text` gives it. Three hours on two CPU cores, after the encoder and the
autoencoder of `world_text`; `--dry-run` tells the FLOPs. Fixed before the runs: three seeds of 800 steps, 512 samples a
cell; paired differences from the U-Net with intervals; with three seeds nothing is claimed, and neither is an agreement
of the two rankings (n = 5).
"""

import runpy
from pathlib import Path

import unified_jax as uj

RECIPE = Path(__file__).parents[1] / "world_text.py"
BINDING = ("binding/colour", "binding/size", "binding/place")


def study() -> uj.Study:
    """The base is the U-Net."""
    recipe = runpy.run_path(str(RECIPE))
    arms = {
        name: {"model.network": recipe["network"](name), "optimizer": recipe["optimizer"](name)}
        for name in ("dit", "uvit", "pixart", "mmdit")
    }
    return uj.Study(
        "world_text",
        tuple(uj.Variant(name, change) for name, change in arms.items()),
        common={"steps": 800, "checkpoint.every": 800},
        metrics=tuple(uj.Metric(name) for name in ("attribute_accuracy", "count_accuracy", *BINDING)),
        seeds=3,
        samples=512,
        together="never",
        about="Equal steps; parameters are matched within 2 %, FLOPs are in the table.",
    )
