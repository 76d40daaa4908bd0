"""`unified-jax train RECIPE ...`: parse, train, evaluate."""

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from unified_jax.cli.entry import run_command, start_process, use_compilation_cache, use_fake_devices
from unified_jax.cli.heap import keep_heap
from unified_jax.errors import UserError
from unified_jax.hosts import Hosts, writes
from unified_jax.runs.flags import check_devices
from unified_jax.runs.recipe import parse_command, parse_stages, recipe_label
from unified_jax.runs.weights_and_biases import check_installed
from unified_jax.runs.xla_flags import recommend
from unified_jax.training.experiment import Experiment


@dataclass(frozen=True)
class TrainCommand:
    """Train a recipe. Every field of its experiment is a flag."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    run_dir: str = ""
    """Run directory; default runs/RECIPE."""
    resume: Literal["auto", "never", "must"] = "auto"
    """auto: resume if a checkpoint exists; never: refuse to; must: require a checkpoint."""
    stages: bool = False
    """Train the experiments of the recipe's stages(), each from the end of the one before, in RUN_DIR/stage_1, ...;
    other flags hold for all of them."""
    init_from: str = ""
    """Start from the EMA of another run: its directory."""
    trust: bool = False
    """Import the custom code that the run of --init-from keeps."""
    code_changed: bool = False
    """Resume although custom classes have changed since the run began; the change is recorded."""
    replay: int = -1
    """Recompute this step from the last checkpoint before it and print the loss of each of its examples."""
    devices: int = 0
    """Use this many fake CPU devices (to try a mesh without hardware); 0: the real devices."""
    xla: Literal["default", "recommended"] = "default"
    """Compiler flags, set before the devices are opened (`runs/xla_flags.py`)."""
    hosts: Hosts = Hosts()
    """Train with several processes (docs/launch.md)."""
    wandb: str = ""
    """Project of Weights & Biases that the run is shown in (the extra `wandb`; WANDB_MODE=offline sends nothing)."""
    stage: tuple[str, ...] = ()
    """NAME=PATH: where a stage of the model is (a run or a file), in the place of its source or of its reference."""
    hours: float = 0.0
    """Save and stop after this many hours, as at SIGTERM (for a queue's limit); the same command resumes. 0: never."""
    dry_run: bool = False
    """Check everything, print the cost of the run here and draw its first batch, without training."""
    stall: int = 1800
    """Seconds without a finished step before the run prints the stacks of all threads and exits; 0: never."""


def parse(arguments: list[str]) -> tuple[str, TrainCommand]:
    """(recipe name, command). Raises UserError without a recipe; SystemExit 2 with a suggestion for a bad flag."""
    recipe, (command, *_) = parse_all(arguments)
    return recipe, command


def parse_all(arguments: list[str]) -> tuple[str, list[TrainCommand]]:
    """The same with a command for each stage where --stages is given, else with one."""
    more = "unified-jax train RECIPE --help lists the flags of a recipe with their defaults."
    called = ("unified-jax train", "unified-jax train RECIPE [--flags]", more)
    if "--stages" in arguments:
        recipe, commands = parse_stages(TrainCommand, called, arguments)
    else:
        recipe, command = parse_command(TrainCommand, called, arguments)
        commands = [command]
    _check(commands[0])
    return recipe, commands


def _check(command: TrainCommand) -> None:
    if command.replay < -1 or command.stall < 0 or not 0 <= command.hours < math.inf:
        raise UserError(
            "--replay must be a step from 0 on, --stall and --hours not negative; found "
            f"{command.replay}, {command.stall} and {command.hours}."
        )
    if command.stages and command.replay >= 0:
        raise UserError("--replay recomputes a step of one run: name the stage's directory, without --stages.")
    check_devices(command.devices)
    if command.wandb:
        check_installed()


def main(arguments: list[str]) -> None:
    """Runs the command."""
    recipe, commands = parse_all(arguments)
    command = commands[0]
    if command.xla == "recommended":
        recommend(strict=command.experiment.reduction == "strict")
    use_fake_devices(command.devices)
    use_compilation_cache()
    run_dir = Path(command.run_dir or Path("runs") / recipe_label(recipe))
    start_process(command.hosts, run_dir)
    from unified_jax.runs.loop import train
    from unified_jax.runs.replay import replay
    from unified_jax.runs.stages import parse_places
    from unified_jax.runs.start import Start

    init_from = Path(command.init_from) if command.init_from else None
    trust, changed = command.trust, command.code_changed
    places = parse_places(command.stage)
    start = Start(
        run_dir, command.resume, init_from, trust=trust, code_changed=changed, wandb=command.wandb,
        hours=command.hours, stall=command.stall, places=places,
    )  # fmt: skip
    experiments = tuple(one.experiment for one in commands)
    if command.dry_run:
        from unified_jax.runs.dry_run import dry_run

        for i, experiment in enumerate(experiments):
            folder = run_dir / f"stage_{i + 1}" if command.stages else run_dir
            report = dry_run(experiment, folder, places, init_from, trust)
            if writes():
                print(report)
        return
    if command.stages:
        _train_stages(experiments, start)
        return
    if command.replay >= 0:
        report = replay(command.experiment, start, command.replay)
        if writes():
            print(report)
        return
    summary = train(command.experiment, start)
    if writes():
        _tell(summary, run_dir)
    if summary["finished"] and command.experiment.evaluate and not evaluated(command.experiment, run_dir, summary):
        _evaluate(command.experiment, run_dir, command.stage)


def _train_stages(experiments: tuple[Experiment, ...], start: Any) -> None:
    from unified_jax.runs.staged import Staged

    stage = tuple(f"{name}={path}" for name, path in start.places.items())
    staged = Staged(experiments, start, lambda experiment, run_dir: _evaluate(experiment, run_dir, stage))
    if staged.run():
        if writes():
            print(staged.table())
    elif writes():
        print("Stopped and saved; the same command goes on from there.", file=sys.stderr)


def evaluated(experiment: Experiment, run_dir: Path, summary: dict[str, Any]) -> bool:
    """Whether evaluation.json is of this step, these scores and as many samples or more: then it is left as it is."""
    from unified_jax.config import to_plain
    from unified_jax.runs.bench import RESULT
    from unified_jax.runs.directory import read_json

    found = read_json(run_dir / RESULT) or {}
    counts = [row["n"] for row in found.get("rows", ()) if isinstance(row, dict) and isinstance(row.get("n"), int)]
    made = found.get("count", max(counts, default=0))
    same = found.get("step") == summary["step"] and found.get("scores", []) == to_plain(experiment.scores)
    return same and made >= experiment.evaluate


def _evaluate(experiment: Experiment, run_dir: Path, stage: tuple[str, ...]) -> None:
    from unified_jax.runs.evaluate import EvaluateCommand, evaluate_run

    evaluate_run(EvaluateCommand(str(run_dir), count=experiment.evaluate, stage=stage, trust=True))  # it just ran


def _tell(summary: dict[str, Any], run_dir: Path) -> None:
    if not summary["finished"]:
        print(f"Stopped and saved at step {summary['step']}; the same command resumes from there.", file=sys.stderr)
        return
    loss = "not finite" if summary["loss"] is None else f"{summary['loss']:.5f}"
    print(f"Trained {summary['step']} steps, loss {loss}; run directory: {run_dir}")


def run(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code; `arguments` default to the command line's."""
    keep_heap()
    code = run_command(main, sys.argv[1:] if arguments is None else arguments)
    if code == 1:  # the writers of a failed run would only repeat the error on exit
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(run())
