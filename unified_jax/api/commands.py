"""The commands in Python: recipes, training, evaluation, plans."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from unified_jax.api.run import Run, load
from unified_jax.errors import UserError
from unified_jax.planning.hardware import open_target
from unified_jax.planning.plan import forecast
from unified_jax.runs import link as linking, loop
from unified_jax.runs.evaluate import EvaluateCommand, evaluate_run
from unified_jax.runs.pipelines import read_pipeline, whole_params
from unified_jax.runs.recipe import load_recipe
from unified_jax.runs.start import Start
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.training.experiment import Experiment


def recipe(name: str) -> Experiment:
    """The experiment of a recipe: its name ("quickstart"), or the path of a file with `experiment()`.

    `dataclasses.replace(recipe("quickstart"), steps=200)` changes it. Raises UserError for an unknown recipe.
    """
    return load_recipe(name)


def train(
    experiment: Experiment, run_dir: str | Path, *, resume: Literal["auto", "never", "must"] = "auto",
    init_from: str | Path | None = None, trust: bool = False, quiet: bool = False,
) -> Run:  # fmt: skip
    """Trains or resumes training, and opens the run.

    resume      "auto": resume if a checkpoint exists; "never": refuse to; "must": require a checkpoint
    init_from   a run whose EMA the new run starts from
    trust       import the custom code that `init_from` keeps
    quiet       no progress bar

    Ctrl-C saves and stops; the same call resumes. Raises UserError for an invalid request, before compilation,
    and RunError for a run that failed.
    """
    if not isinstance(experiment, Experiment):
        raise UserError(f"train takes an Experiment, such as uj.recipe('quickstart'); found {experiment!r}.")
    origin = None if init_from is None else Path(init_from)
    loop.train(experiment, Start(Path(run_dir), resume, origin, quiet=quiet, trust=trust))
    return load(run_dir, trust=True)  # its classes are those of this process


def pipeline(folder: str | Path, *, size: int | None = None, dtype: Literal["float32", "bfloat16"] = "float32") -> Run:
    """Opens the folder of a diffusers pipeline, to sample from it: Stable Diffusion 1 to 3.5 and XL, PixArt or Flux.

    size    side of an image in pixels; None: as the network was trained
    dtype   compute dtype; the weights stay float32

    `unified-jax convert FOLDER RUN` makes a run of it. Raises UserError for parts that are missing or do not fit.
    """
    found = read_pipeline(folder, size, dtype)
    return Run(Path(folder), found.experiment, whole_params(found), 0)


def link(
    experiment: Experiment, run_dir: str | Path, *, stages: Mapping[str, str | Path] | None = None, trust: bool = False
) -> Run:
    """Writes the run directory of an experiment whose model is a `Chain`, and opens the run; nothing is trained.

    stages   where a link's model is instead of at its source: {name: a run or a file}
    trust    import the custom code that the links' runs keep

    Raises UserError for another model, a source that does not fit, or a folder that holds a run.
    """
    linking.link(experiment, Path(run_dir), {name: Path(path) for name, path in (stages or {}).items()}, trust)
    return load(run_dir, trust=True)  # its classes are those of this process


def evaluate(
    run: Run | str | Path, *, count: int = 512, splits: str | tuple[str, ...] = (), seed: int = 0,
    plan: SamplingPlan | None = None, only: str | tuple[str, ...] = (), trust: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """Evaluates a run: the rows of its evaluation.json, with metric, split, value and interval.

    count    samples per split
    splits   splits that provide the conditions; default: test, and on the world also held_out
    only     conditions that are given alone; default: all
    """
    folder = run.folder if isinstance(run, Run) else Path(run)
    trust = trust or isinstance(run, Run)
    splits, only = ((one,) if isinstance(one, str) else tuple(one) for one in (splits, only))
    command = EvaluateCommand(str(folder), count=count, splits=splits, seed=seed, only=only, trust=trust)
    return evaluate_run(command, plan)


def plan(experiment: Experiment, target: str, *, batch_size: int | None = None) -> dict[str, Any]:
    """Plans an experiment ahead of time for a target such as "v5e:2x4" or "h200:8", without the hardware.

    The result has bytes per chip by category, FLOPs, seconds per step, collectives, and whether it fits. Raises
    UserError if the target's compiler is not installed.
    """
    wanted = experiment if batch_size is None else dataclasses.replace(experiment, batch_size=batch_size)
    return forecast(wanted, open_target(target))
