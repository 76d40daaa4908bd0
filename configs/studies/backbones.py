"""Five backbones with the same number of parameters (within 2 %): pictures of one object or two from captions.

    unified-jax ablate backbones
    unified-jax ablate backbones_labels                the same from labels

6.4e14 FLOPs of training (`--dry-run`), three hours on two CPU cores, after the encoder and the autoencoder of
`world_text`. Fixed before the runs: three seeds of 800 steps, 512 samples a cell; paired differences from DiT with
intervals; with three seeds nothing is claimed, and neither is an agreement of the two rankings (n = 5).
"""

import runpy
from pathlib import Path

import unified_jax as uj

RECIPE = Path(__file__).parents[1] / "world_text.py"
BINDING = ("binding/colour", "binding/size", "binding/place")


def study() -> uj.Study:
    """The base is DiT with cross-attention."""
    network = runpy.run_path(str(RECIPE))["network"]
    return uj.Study(
        "world_text",
        tuple(uj.Variant(name, {"model.network": network(name)}) for name in ("uvit", "pixart", "mmdit", "unet")),
        common={"steps": 800, "checkpoint.every": 800},
        metrics=tuple(uj.Metric(name) for name in ("attribute_accuracy", "count_accuracy", *BINDING)),
        seeds=3,
        samples=512,
        together="never",
        about="Equal steps; parameters are matched within 2 %, FLOPs are in the table.",
    )
