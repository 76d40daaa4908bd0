"""`evaluate --against`: FID and its relatives of a run's samples."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unified_jax.config import to_plain
from unified_jax.evaluation.evaluate import asked_of, splits_for
from unified_jax.evaluation.finite import check_figures
from unified_jax.hosts import together, writes
from unified_jax.runs import distance
from unified_jax.runs.directory import provenance, write_json
from unified_jax.runs.folders import make_folder
from unified_jax.runs.sampled import SampledPictures, conditions_of, image_of
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.training.experiment import Experiment
from unified_jax.typing import Params

if TYPE_CHECKING:
    from unified_jax.runs.evaluate import EvaluateCommand

RESULT = "distances.json"
FEATURES = "features"
"""Folder of the samples' features in the output folder, until the rows are written."""


def evaluate_against(
    command: "EvaluateCommand", experiment: Experiment, params: Params, step: int, plan: SamplingPlan, show: bool
) -> list[dict[str, Any]]:
    """The rows, also in OUT/distances.json. A killed command goes on from the features in OUT/features."""
    image = image_of(experiment.model)
    extractors, measures = command.distance.extractors(command.trust), command.distance.measures()
    real = distance.reference_of(command.against, experiment.data, image)
    split = splits_for(experiment.data, command.splits)[0]
    given = conditions_of(experiment, split, command.count, command.seed, command.conditions)
    out = Path(command.out or command.run)
    together(lambda: make_folder(out), by="first")
    told = f"conditions {split if command.conditions == 'data' else 'balanced'}" if given else "no conditions"
    mark = f"{Path(command.run).name} step {step}, {told}"
    made = SampledPictures(experiment, params, given, command.count, command.batch, command.seed, plan, mark)
    with command.distance.root() as root:
        rows = distance.distances(real, made, extractors, measures, (root, out / FEATURES), command.batch)
    rows = [asked_of(experiment.model, split) | {"conditions": command.conditions} | row for row in rows]
    if writes():
        check_figures(rows)
        result = {"rows": rows, "step": step, "plan": to_plain(plan), "sampling_seed": command.seed}
        write_json(out / RESULT, result | {"against": command.against} | provenance(experiment))
        shutil.rmtree(out / FEATURES, ignore_errors=True)
        if show:
            print("\n".join(distance.lines(rows)))
    return rows
