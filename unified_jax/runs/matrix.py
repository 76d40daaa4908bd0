"""The part of `evaluate` for models of several modalities: the any-to-any matrix, its table and images."""

import dataclasses
from typing import Any

import numpy as np

from unified_jax.data.pipeline import PART_BITS
from unified_jax.data.world import World
from unified_jax.data.world.scene import ATTRIBUTES
from unified_jax.errors import UserError
from unified_jax.evaluation import matrix
from unified_jax.hosts import writes
from unified_jax.modalities.sheets import show_samples
from unified_jax.runs import joint_modes
from unified_jax.runs.bench import Bench
from unified_jax.samplers.plan import SamplingPlan


def evaluate_matrix(bench: Bench, splits: tuple[str, ...]) -> list[dict[str, Any]]:
    """Evaluates, prints the table, returns the rows; image grids and a heat map per split are in the bench's images."""
    names = tuple(m.name for m in bench.experiment.model.modalities)
    rows: list[dict[str, Any]] = []
    for split in splits:
        found = _split_rows(bench, split)
        rows += found
        pairs = [row for row in found if "through" not in row]  # a round trip is no pair
        bench.pictures[f"matrix_{split}.png"] = matrix.heat_map(pairs, names)
        if bench.show and writes():
            _print_split(pairs, names, split)
    return rows


def _drawn(plan: SamplingPlan) -> SamplingPlan:
    """The plan with texts at temperature 1: without conditions, greedy texts would be equal in all samples."""
    return plan if plan.temperature else dataclasses.replace(plan, temperature=1.0)


def _print_split(found: list[dict[str, Any]], names: tuple[str, ...], split: str) -> None:
    print(f"\n{split}: attribute accuracy, given (rows) to made (columns)")
    print("?: not above chance; *: never trained together")
    print(matrix.table(found, names))
    joint = found[-1]
    if joint["value"] is not None:
        print(f"made together, readers agree: {joint['value']:.2f} (chance {joint['chance']:.2f})")
    for row in [row for row in found if row.get("never_together") and row["value"] is not None]:
        print(
            f"never trained together: {row['given'][0]} -> {row['wanted'][0]} {row['value']:.2f} "
            f"[{row['low']:.2f}, {row['high']:.2f}] (chance {row['chance']:.2f})"
        )


def _split_rows(bench: Bench, split: str) -> list[dict[str, Any]]:
    data = bench.experiment.data
    model: Any = bench.experiment.model
    if not isinstance(data, World) or data.max_objects != 1:
        raise UserError("The any-to-any matrix needs the world with max_objects=1, whose readers score the samples.")
    by_name: dict[str, Any] = {m.name: m for m in model.modalities}
    names = tuple(by_name)
    examples = bench.examples(split)
    source, index = data.source(split, ()), examples.ids & ((1 << PART_BITS) - 1)
    scenes = [source.scene(int(i)) for i in index]
    truth = {name: np.asarray([getattr(s.objects[0], name) for s in scenes]) for name, _ in ATTRIBUTES}
    raw = {name: examples.arrays[name] for name in names}
    documents = model.packer is not None and not getattr(model.packer, "mixed", False)
    chains = not documents  # a model of streams: no document order, and every field may be read and made
    total = (len(matrix.requests(names)) + (joint_modes.count_of(model) if chains else 0)) * bench.count
    with bench.bar(split, total) as bar:

        def generate(given: tuple[str, ...], wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
            chosen = {name: raw[name] for name in given}
            made = bench.draw(chosen, wanted, bar.update, bench.plan if given else _drawn(bench.plan))
            drawn = {name: by_name[name].from_model(value) for name, value in made.items()}
            if not given or (given == names[:1] and len(wanted) == 1):
                label = "joint" if not given else f"{given[0]}_to_{wanted[0]}"
                bench.pictures[f"evaluation_{split}_{label}.png"] = show_samples(model.modalities, chosen, drawn, 16)
            return drawn

        apart = () if chains else model.documents.apart
        rows = matrix.evaluate_split(model.modalities, truth, raw, split, generate, apart)
        more = joint_modes.mode_rows(bench, split, joint_modes.Truth(scenes, raw), bar.update) if chains else []
    return more + rows
