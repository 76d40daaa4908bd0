"""The part of `evaluate` that a model of edits takes: pictures after instructions, scored, with a sheet a split."""

from typing import Any

import numpy as np
from tqdm import tqdm

from unified_jax.cli.matrix import Bench
from unified_jax.config import to_plain
from unified_jax.data.pipeline import PART_BITS, Pipeline
from unified_jax.data.world import World
from unified_jax.errors import UserError
from unified_jax.evaluation.edits import score_edits
from unified_jax.hosts import writes
from unified_jax.modalities.image import sheet
from unified_jax.models.sampling import generate_many
from unified_jax.training.run_dir import provenance, write_json

GIVEN, MADE = ("instruction", "image"), "edited"


def edits_images(model: Any) -> bool:
    """Whether a model has the modalities of edits."""
    return {*GIVEN, MADE} <= {m.name for m in model.modalities}


def evaluate_edits(bench: Bench, step: int, splits: tuple[str, ...]) -> list[dict[str, Any]]:
    """Draws the edits of each split, writes evaluation.json and sheets, prints the rates, returns the rows."""
    data, model = bench.experiment.data, bench.experiment.model
    if not isinstance(data, World):
        raise UserError("Edits are scored on the world, whose reader sees what a picture shows.")
    by_name: dict[str, Any] = {m.name: m for m in model.modalities}
    rows: list[dict[str, Any]] = []
    for split in splits:
        examples = Pipeline(data, split, model.modalities, bench.count, bench.seed).batch(0)
        source, index = data.source(split, ()), examples.ids & ((1 << PART_BITS) - 1)
        edits, after = zip(*(source.edit(int(i)) for i in index), strict=True)
        with tqdm(
            total=bench.count, unit="sample", desc=split, dynamic_ncols=True, disable=not bench.show or not writes()
        ) as bar:
            made = generate_many(
                model, bench.params, {name: examples.arrays[name] for name in GIVEN}, (MADE,), bench.count,
                bench.seed, bench.plan, bench.batch, bench.experiment.rules, bar.update,
            )  # fmt: skip
        pictures = by_name[MADE].from_model(made[MADE])
        rows += score_edits(pictures, list(edits), list(after), split)
        if writes():
            before, true = (by_name[name].open(examples.arrays[name]) for name in ("image", MADE))
            shown = [picture for i in range(min(12, bench.count)) for picture in (before[i], pictures[i], true[i])]
            titles = [text for edit in edits[:12] for text in ("given", edit.instruction, "asked for")]
            sheet(np.stack(shown), columns=9, titles=titles).save(bench.out / f"evaluation_{split}.png")
    result = {"rows": rows, "step": step, "plan": to_plain(bench.plan), "sampling_seed": bench.seed}
    if writes():
        write_json(bench.out / "evaluation.json", result | provenance(bench.experiment))
    if bench.show and writes():
        for row in rows:
            interval = f"[{row['low']:.3f}, {row['high']:.3f}]"
            beside = f"chance {row['chance']:.3f}, left as it is {row['unchanged']:.0f}"
            print(f"{row['split']} {row['metric'].replace('_', ' ')} {row['value']:.3f} {interval} ({beside})")
    return rows
