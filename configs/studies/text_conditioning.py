"""How a DiT reads a caption: as one vector (adaLN), by cross-attention to its words, or both, judged by binding.

    unified-jax ablate text_conditioning

With one object every way is right; with two the question is which colour is whose. `--dry-run` tells the FLOPs; an hour
and a half on one CPU core, after the encoder and the autoencoder of `world_text`. Fixed before the runs: three seeds of
900 steps, 512 samples a cell, as the captions are (nothing is drawn of what they leave out); paired differences by seed
with intervals; with three seeds nothing is claimed. The vector is that of an encoder trained to name all attributes of
both objects in the order of mention. `objects` is the recipe: cross-attention to the two objects that the encoder
names, and the vector of both.
"""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import unified_jax as uj

RECIPE = runpy.run_path(str(Path(__file__).parents[1] / "world_text.py"))


def reading(*parts: str) -> Any:
    """A change of the experiment: conditions of these parts alone."""

    def change(experiment: uj.Experiment) -> uj.Experiment:
        model: Any = experiment.model
        kept = tuple(one for one in model.conditions if one.part in parts)
        return replace(experiment, model=replace(model, conditions=kept))

    return change


def with_tokens(experiment: uj.Experiment, objects: tuple[tuple[str, ...], ...]) -> uj.Experiment:
    """The experiment that reads these objects, or the words, ()."""
    return RECIPE["with_reader"](experiment, lambda reader: RECIPE["reader_of"](reader, objects))


def of_a_dit(experiment: uj.Experiment) -> uj.Experiment:
    """`world_text --words`, for 900 steps."""
    kept = uj.Checkpointing(every=900)
    return replace(with_tokens(experiment, ()), steps=900, checkpoint=kept)


def of_objects(experiment: uj.Experiment) -> uj.Experiment:
    """The recipe's tokens and its vector."""
    return with_tokens(experiment, RECIPE["OBJECTS"])


def study() -> uj.Study:
    """The base reads the vector and the words."""
    return uj.Study(
        "world_text",
        (
            uj.Variant("vector", reading("pooled")),
            uj.Variant("cross-attention", reading("tokens")),
            uj.Variant("objects", of_objects),
        ),
        common=of_a_dit,
        metrics=tuple(
            uj.Metric(name) for name in ("binding/colour", "binding/size", "binding/place", "attribute_accuracy")
        ),
        seeds=3,
        samples=512,
        together="never",
    )
