"""`unified-jax link RECIPE --run DIR`: a run directory of a chain of trained models, which other commands open."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unified_jax.cli.entry import run_command, use_compilation_cache
from unified_jax.runs.recipe import parse_command, recipe_label
from unified_jax.training.experiment import Experiment


@dataclass(frozen=True)
class LinkCommand:
    """Write the run directory of a recipe whose model is a Chain. Every field of its experiment is a flag."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    run: str = ""
    """Run directory, a new one; default runs/RECIPE."""
    stage: tuple[str, ...] = ()
    """NAME=PATH: where a link's model is (a run or a file), in the place of its source."""
    trust: bool = False
    """Import the custom code that the links' runs keep."""


def main(arguments: list[str]) -> None:
    """Runs the command."""
    more = "unified-jax link RECIPE --help lists the flags of a recipe with their defaults."
    called = ("unified-jax link", "unified-jax link RECIPE --run DIR", more)
    recipe, command = parse_command(LinkCommand, called, arguments)
    use_compilation_cache()
    from unified_jax.runs.link import link
    from unified_jax.runs.listing import LINKED
    from unified_jax.runs.stages import parse_places

    run_dir = Path(command.run or Path("runs") / recipe_label(recipe))
    summary = link(command.experiment, run_dir, parse_places(command.stage), command.trust)
    print(f"Linked {', '.join(summary[LINKED])}; run directory: {run_dir}")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
