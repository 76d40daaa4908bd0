"""What the commands do, from Python: a recipe, its training, its evaluation, a plan."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from unified_jax.api.run import Run, load
from unified_jax.planning.hardware import open_target
from unified_jax.planning.plan import forecast
from unified_jax.runs import loop
from unified_jax.runs.evaluate import EvaluateCommand, evaluate_run
from unified_jax.runs.recipe import load_recipe
from unified_jax.runs.start import Start
from unified_jax.samplers.plan import Plan
from unified_jax.training.experiment import Experiment


def recipe(name: str) -> Experiment:
    """The experiment of a recipe: one that ships ("quickstart"), or a path of a file with `experiment()`.

    `dataclasses.replace(recipe("quickstart"), steps=200)` changes it. Raises UserError for one that is not there.
    """
    return load_recipe(name)


def train(
    experiment: Experiment, run_dir: str | Path, *, resume: Literal["auto", "never", "must"] = "auto",
    init_from: str | Path | None = None, trust: bool = False, quiet: bool = False,
) -> Run:  # fmt: skip
    """Trains, or goes on training, and opens what came of it.

    resume      "auto": resume where the directory holds a checkpoint; "never": refuse one; "must": require one
    init_from   a run whose EMA parameters a new run starts from
    trust       import the code of your own that `init_from` keeps
    quiet       no progress bar

    Ctrl-C saves and stops; the same call resumes. Raises UserError for a request that cannot be met, before anything
    is compiled, and RunError for a run that failed.
    """
    origin = None if init_from is None else Path(init_from)
    loop.train(experiment, Start(Path(run_dir), resume, origin, quiet=quiet, trust=trust))
    return load(run_dir, trust=True)  # its classes are the ones at hand


def evaluate(
    run: Run | str | Path, *, count: int = 512, splits: tuple[str, ...] = (), seed: int = 0, plan: Plan | None = None,
    trust: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """The rows of evaluation.json, which is written into the run: metric, split, value, interval.

    count    samples a split
    splits   whose conditions are used; default: test, and held_out on the world
    """
    folder = run.folder if isinstance(run, Run) else Path(run)
    command = EvaluateCommand(str(folder), count=count, splits=splits, seed=seed, trust=trust or isinstance(run, Run))
    return evaluate_run(command, plan)


def plan(experiment: Experiment, target: str, *, batch_size: int | None = None) -> dict[str, Any]:
    """What an experiment takes on devices that are not there, such as "v5e:2x4" or "h200:8": bytes a chip by kind,
    FLOPs, seconds a step, collectives, and whether it fits.

    Raises UserError where the target's compiler is not installed.
    """
    wanted = experiment if batch_size is None else dataclasses.replace(experiment, batch_size=batch_size)
    return forecast(wanted, open_target(target))
