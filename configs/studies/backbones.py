"""Five backbones with the same number of parameters (within 2 %): pictures of one object or two from captions.

    unified-jax ablate backbones
    unified-jax ablate backbones_labels                the same from labels

Each reads the two objects of `world_text` and is trained by its optimizer. An hour and a half on two CPU cores, after
the encoder and the autoencoder of `world_text`; `--dry-run` tells the FLOPs. Fixed before the runs: three seeds of 300
steps (about four minutes each), 256 samples a cell; paired differences from the DiT with intervals; with three seeds
nothing is claimed, and neither is an agreement of the two rankings (n = 5).
"""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import unified_jax as uj
from unified_jax.networks.unet.levels import Level

RECIPE = runpy.run_path(str(Path(__file__).parents[1] / "world_text.py"))
BINDING = ("binding/colour", "binding/size", "binding/place")
DEEP = Level(124, 1, reads="tokens", heads=4)
NETWORKS: dict[str, Any] = {
    **{name: RECIPE["network"](name) for name in ("uvit", "pixart", "mmdit")},
    "unet": uj.UNet(down=(Level(60, 1), DEEP), middle=DEEP, scale_shift=True, remat="none"),
}
"""The U-Net is larger than the recipe's, so that it has as many parameters."""


OBJECTS = tuple(tuple(f"named_{name}{end}" for name, _ in uj.ATTRIBUTES if name != "motion") for end in ("", "_2"))
"""What a picture shows of the two objects that a caption names."""


def of_a_dit(experiment: uj.Experiment) -> uj.Experiment:
    """`world_text`, for 300 steps, with these objects and the caption's own vector, nothing drawn."""
    kept = uj.Checkpointing(every=300)
    experiment = RECIPE["with_reader"](
        experiment, lambda reader: replace(reader, objects=OBJECTS, vector="text", apart=())
    )
    return replace(experiment, steps=300, checkpoint=kept)


def study() -> uj.Study:
    """The base is DiT with cross-attention."""
    arms = {name: {"model.network": one, "optimizer": RECIPE["optimizer"](name)} for name, one in NETWORKS.items()}
    return uj.Study(
        "world_text",
        tuple(uj.Variant(name, change) for name, change in arms.items()),
        common=of_a_dit,
        metrics=tuple(uj.Metric(name) for name in ("attribute_accuracy", "count_accuracy", *BINDING)),
        seeds=3,
        samples=256,
        together="never",
        about="Equal steps; parameters are matched within 2 %, FLOPs are in the table.",
    )
