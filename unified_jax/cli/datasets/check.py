"""`unified-jax data check RECIPE`: every record once, all faults by kind."""

import shlex
from dataclasses import dataclass
from typing import Annotated

import tyro

from unified_jax.cli.datasets.source import is_path
from unified_jax.data.base import fields_read
from unified_jax.errors import RunError, UserError
from unified_jax.runs.recipe import parse_command
from unified_jax.training.experiment import Experiment


@dataclass(frozen=True)
class CheckCommand:
    """Read and prepare every record of a recipe's data as training does. Exit code 1 if some cannot be used."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    """The recipe's."""
    splits: tuple[str, ...] = ()
    """Default: those of training and validation."""
    workers: int = 2
    """Threads."""


def main(arguments: list[str]) -> None:
    """Runs the command."""
    more = "unified-jax data check RECIPE --help lists the flags of a recipe with their defaults."
    if arguments and not arguments[0].startswith("-") and is_path(arguments[0]):
        asked = f"unified-jax data check images --data.path {shlex.quote(arguments[0])}"
        raise UserError(f"{arguments[0]!r} is a path; its records are checked as a recipe reads them: {asked}.")
    called = ("unified-jax data check", "unified-jax data check RECIPE", more)
    _, command = parse_command(CheckCommand, called, arguments)
    if command.workers < 1:
        raise UserError(f"--workers must be at least 1, found {command.workers}.")
    from tqdm import tqdm

    from unified_jax.data.pipeline import check_classes
    from unified_jax.runs.checking import check

    e = command.experiment
    splits = command.splits or tuple(dict.fromkeys((e.split, e.validation.split)))
    bad = 0
    for split in splits:
        parts = e.data.parts(split, fields_read(e.model.modalities))
        check_classes(e.data.name, parts, e.model.modalities)
        for _, name, source in parts:
            with tqdm(total=len(source), desc=f"{name} {split}", unit="record", dynamic_ncols=True) as bar:
                found = check(name, source, e.model.modalities, command.workers, bar.update)
            bad += found.count
            state = f"{found.count} cannot be used" if found.count else "all can be used"
            print(f"split {split!r} of {name}: {found.records} records, {state}")
            print("".join(f"  {line}\n" for line in found.lines()), end="")
    if bad:
        raise RunError(
            f"{bad} records cannot be used. Mend or remove them, or leave them out: unified-jax data build RECIPE --to "
            "DIR --skip."
        )
