"""`unified-jax runs [FOLDER ...]`: the runs of a folder; `--compare`: their differences and curves."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unified_jax.cli.entry import run_command
from unified_jax.errors import UserError
from unified_jax.runs.flags import parse
from unified_jax.runs.listing import compare, describe, draw_curves, find_runs, table


@dataclass(frozen=True)
class RunsCommand:
    """List runs with their steps and losses, or compare some of them."""

    folders: Annotated[tuple[str, ...], tyro.conf.Positional] = ("runs",)
    """Run directories, or folders that hold some."""
    compare: bool = False
    """Show the settings in which the runs differ, and plot their losses to --out."""
    out: str = "compare.png"
    """Figure of --compare."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: list[str]) -> None:
    """Runs the command."""
    command = parse(RunsCommand, "unified-jax runs", arguments)
    runs = find_runs([Path(folder) for folder in command.folders])
    if not runs:
        raise UserError(f"There is no run in {', '.join(command.folders)}.")
    rows = [describe(run) for run in runs]
    if not command.compare:
        print(json.dumps(rows, indent=1) if command.json else table(rows))
        return
    if len(runs) < 2:
        raise UserError(f"--compare needs at least two runs, found {runs[0]}.")
    out = Path(command.out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_curves(runs, out)
    except OSError as error:
        raise UserError(f"The figure {command.out!r} cannot be written: {error.strerror or error}.") from error
    differ = compare(runs)
    if command.json:
        print(json.dumps({"runs": rows, "differences": differ}, indent=1))
        return
    print(table(rows), table(differ) or "The settings are the same.", f"curves: {out}", sep="\n\n")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
