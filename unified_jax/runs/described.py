"""What a run directory says of its run: configuration, code, environment, data (`runs.directory`)."""

from pathlib import Path

from jax.sharding import Mesh

from unified_jax.config import to_plain
from unified_jax.data.pipeline import Pipeline
from unified_jax.runs import directory as runs
from unified_jax.runs.code import changed_code, keep_code
from unified_jax.runs.resume import DATA
from unified_jax.training.experiment import Experiment


def described(experiment: Experiment, pipeline: Pipeline, mesh: Mesh, folder: Path, step: int) -> None:
    """Writes all of it, of a run that begins or goes on from this step."""
    keep_code(folder, experiment, step)
    runs.save_experiment(folder, experiment)
    runs.write_json(folder / "environment.json", runs.environment(experiment, dict(mesh.shape)))
    runs.write_json(folder / DATA, {"parts": pipeline.described()})
    if names := pipeline.class_names():
        runs.write_json(folder / runs.NAMES, names)


def rescored(experiment: Experiment, pipeline: Pipeline, mesh: Mesh, folder: Path, step: int) -> None:
    """Leaves a finished run as it is, but for other scores, and code that it was told to take."""
    del pipeline, mesh
    before = runs.read_config(folder).get("scores", [])
    if before != to_plain(experiment.scores) or changed_code(folder, experiment):
        keep_code(folder, experiment, step)
        runs.save_experiment(folder, experiment)
