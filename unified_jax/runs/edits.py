"""The part of `evaluate` for models of edits: scores of edited images, and an image grid per split."""

from typing import Any

import numpy as np

from unified_jax.data.pipeline import PART_BITS
from unified_jax.data.world import World
from unified_jax.errors import UserError
from unified_jax.evaluation.edits import score_edits
from unified_jax.hosts import writes
from unified_jax.modalities.image import sheet
from unified_jax.runs.bench import Bench

GIVEN, MADE = ("instruction", "image"), "edited"


def edits_images(model: Any) -> bool:
    """Whether a model makes edits of images from instructions."""
    return set(GIVEN) <= set(model.givable) and MADE in model.wantable


def evaluate_edits(bench: Bench, splits: tuple[str, ...]) -> list[dict[str, Any]]:
    """Samples the edits of each split, prints the rates, returns the rows; the bench gets an image grid per split."""
    data, model = bench.experiment.data, bench.experiment.model
    if not isinstance(data, World):
        raise UserError("Edits can be scored on the world only, whose reader finds the attributes of an image.")
    by_name: dict[str, Any] = {m.name: m for m in model.modalities}
    rows: list[dict[str, Any]] = []
    for split in splits:
        examples = bench.examples(split)
        source, index = data.source(split, ()), examples.ids & ((1 << PART_BITS) - 1)
        edits, after = zip(*(source.edit(int(i)) for i in index), strict=True)
        with bench.bar(split, bench.count) as bar:
            made = bench.draw({name: examples.arrays[name] for name in GIVEN}, (MADE,), bar.update)
        pictures = by_name[MADE].from_model(made[MADE])
        rows += score_edits(pictures, list(edits), list(after), split)
        before, true = (by_name[name].open(examples.arrays[name]) for name in ("image", MADE))
        shown = [picture for i in range(min(12, bench.count)) for picture in (before[i], pictures[i], true[i])]
        titles = [text for edit in edits[:12] for text in ("given", edit.instruction, "asked for")]
        bench.pictures[f"evaluation_{split}.png"] = sheet(np.stack(shown), columns=9, titles=titles)
    if bench.show and writes():
        for row in rows:
            interval = f"[{row['low']:.3f}, {row['high']:.3f}]"
            beside = f"chance {row['chance']:.3f}, left as it is {row['unchanged']:.0f}"
            print(f"{row['split']} {row['metric'].replace('_', ' ')} {row['value']:.3f} {interval} ({beside})")
    return rows
