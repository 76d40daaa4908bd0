"""Linking: the run directory of a model without parameters of its own (`models.chain`), which nothing trains.

    RUN/config.json  environment.json  summary.json  stages/  code/

There are no checkpoints. config.json is written last, so that a folder whose linking was interrupted is no run.
"""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import jax

from unified_jax.config import check_kinds
from unified_jax.errors import UserError
from unified_jax.hosts import together, writes
from unified_jax.precision import same_numbers, seed_key
from unified_jax.runs import directory as runs
from unified_jax.runs.code import CODE, TABLE, check_own_classes, keep_code
from unified_jax.runs.listing import LINKED
from unified_jax.runs.lock import RunLock
from unified_jax.runs.opened import mesh_for
from unified_jax.runs.saved import loading
from unified_jax.runs.stages import NOWHERE, Places, begin_stages, check_sources
from unified_jax.training.experiment import Experiment


@same_numbers()
def link(experiment: Experiment, run_dir: Path, places: Places = NOWHERE, trust: bool = False) -> dict[str, Any]:
    """Copies the stages of an experiment's model into a new run directory, and returns the content of summary.json.

    places   where stages are found instead of at their source
    trust    import the custom code that the sources keep

    Raises UserError for a model that is trained, a source that does not fit, or a folder that holds a run.
    """
    check_kinds(experiment)
    check_own_classes(experiment)
    _check_model(experiment)
    together(lambda: _check_folder(run_dir))
    together(lambda: check_sources(experiment.model, places))
    mesh = mesh_for(experiment)
    together(lambda: runs.create(run_dir), by="first")
    with contextlib.ExitStack() as stack:
        together(lambda: stack.enter_context(RunLock(run_dir)), by="first")
        stack.enter_context(experiment.rules.active(mesh))
        stages = begin_stages(run_dir, experiment.model, None, loading(mesh, experiment.rules, places, trust))
        sources = {one.name: str(places.get(one.name, one.source)) for one in experiment.model.stages}
        summary = {LINKED: sources, "parameters": sum(leaf.size for leaf in jax.tree.leaves(stages))}
        if writes():
            _describe(experiment, run_dir, summary, dict(mesh.shape))
    return summary


def _check_model(experiment: Experiment) -> None:
    model = experiment.model
    if jax.tree.leaves(jax.eval_shape(model.init, seed_key(0))) or not model.stages:
        raise UserError(
            f"unified-jax link is for models of trained links (Chain); {type(model).__name__} has parameters of its "
            "own: train it."
        )
    if not experiment.tuning.full:
        raise UserError("--tuning belongs to training, and linking trains nothing; leave it out.")


def _check_folder(run_dir: Path) -> None:
    if (run_dir / "config.json").exists() or (run_dir / "checkpoints").exists():
        raise UserError(f"{str(run_dir)!r} already holds a run; choose another --run.")


def _describe(experiment: Experiment, run_dir: Path, summary: dict[str, Any], mesh: dict[str, int]) -> None:
    if (run_dir / CODE / TABLE).is_file():  # of a linking that was interrupted
        shutil.rmtree(run_dir / CODE)
    keep_code(run_dir, experiment, 0)
    runs.write_json(run_dir / "environment.json", runs.environment(experiment, mesh))
    runs.write_json(run_dir / "summary.json", summary | runs.provenance(experiment))
    runs.save_experiment(run_dir, experiment)
