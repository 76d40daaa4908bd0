"""The part of `evaluate` for models of several streams: what the matrix leaves out (`evaluation.joint_modes`).

Marginals: each modality from nothing. Round trips: given a, b is sampled, then a again from b. A Gibbs chain over all
modalities, from the caption of one scene that names half of its attributes: it must reach the joint distribution.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from unified_jax.data.world.caption import write_caption
from unified_jax.evaluation import joint_modes, matrix
from unified_jax.modalities.image import Image
from unified_jax.modalities.sheets import show_samples
from unified_jax.modalities.text import Text
from unified_jax.models.gibbs import GibbsChain
from unified_jax.runs.bench import Bench
from unified_jax.samplers.guidance import Guidance

ROUNDS = 16
"""Rounds of the chain."""
HALF = ("colour", "place")
"""What its first caption names of the four attributes of an image."""


class Truth(NamedTuple):
    """The scenes of a split, and their renderings as `prepare` gives them."""

    scenes: list[Any]
    raw: dict[str, np.ndarray]


def mode_rows(bench: Bench, split: str, truth: Truth, report: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Marginals and round trips; with an image and a text also the chain."""
    by_name: dict[str, Any] = {m.name: m for m in bench.experiment.model.modalities}
    rows: list[dict[str, Any]] = []

    def draw(given: dict[str, np.ndarray], wanted: str) -> np.ndarray:
        return bench.draw(given, (wanted,), report)[wanted]

    for name, modality in by_name.items():
        found = matrix.read(modality, modality.from_model(draw({}, name)))
        rows += [joint_modes.readable_row(found, name, split)]
        rows += joint_modes.tv_rows(found, (), name, split, "tv") if isinstance(modality, Image) else []
    for first in by_name:
        for second in by_name:
            if first != second:
                rows.append(_trip(bench, split, truth, (first, second), draw))
    image = next((m for m in by_name.values() if isinstance(m, Image)), None)
    text = next((m for m in by_name.values() if isinstance(m, Text)), None)
    if image is not None and text is not None and len(by_name) == 2:
        rows += _chain(bench, split, truth, (image, text), report)
    return rows


def count_of(model: Any) -> int:
    """Samples of `mode_rows`, in units of `Bench.count`."""
    n = len(model.modalities)
    return n + 2 * n * (n - 1) + (1 if n == 2 else 0)


def _trip(bench: Bench, split: str, truth: Truth, way: tuple[str, str], draw: Any) -> dict[str, Any]:
    by_name: dict[str, Any] = {m.name: m for m in bench.experiment.model.modalities}
    first, second = (by_name[name] for name in way)
    middle = draw({way[0]: truth.raw[way[0]]}, way[1])
    last = draw({way[1]: np.asarray(second.to_prepared(jnp.asarray(middle)))}, way[0])
    said = matrix.read(second, second.from_model(middle))
    return joint_modes.kept_row(said, matrix.read(first, first.from_model(last)), way, split)


def _chain(
    bench: Bench, split: str, truth: Truth, pair: tuple[Any, Any], report: Callable[[int], Any]
) -> list[dict[str, Any]]:
    image, text = pair
    chain: Any = GibbsChain(bench.experiment.model, (image.name, text.name), ROUNDS)
    start = text.prepare(write_caption(truth.scenes[0], bench.seed, HALF))
    given = {text.name: np.broadcast_to(start, (bench.count, *start.shape))}
    experiment = dataclasses.replace(bench.experiment, model=chain)
    plain = dataclasses.replace(bench.plan, guidance=Guidance())  # guidance samples another distribution
    made = dataclasses.replace(bench, experiment=experiment).draw(given, (image.name, text.name), report, plain)
    drawn = {m.name: m.from_model(made[m.name]) for m in pair}
    bench.pictures[f"evaluation_{split}_gibbs.png"] = show_samples(pair, given, drawn, 16)
    found = matrix.read(image, drawn[image.name])
    rows = [row | {"rounds": ROUNDS} for row in joint_modes.tv_rows(found, (text.name,), image.name, split, "gibbs_tv")]
    if bench.show:
        print(
            f"{split}: Gibbs chain, largest total variation above its floor {joint_modes.excess(rows, 'gibbs_tv'):.3f}"
        )
    return rows
