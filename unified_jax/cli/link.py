"""`unified-jax link RECIPE --run DIR`: a run directory of a chain of trained models, which other commands open."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from unified_jax.cli.entry import run_command, use_compilation_cache
from unified_jax.runs.flags import first_word, parse
from unified_jax.runs.recipe import open_recipe, recipe_label, recipe_names
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
    more = "link RECIPE --help lists the flags of a recipe with their defaults."
    recipe = first_word(arguments, "link RECIPE --run DIR", "recipes", recipe_names(), more)
    experiment, flags = open_recipe(recipe, arguments[1:], [field.name for field in fields(LinkCommand)])
    command = parse(LinkCommand, f"link {recipe}", flags, LinkCommand(experiment), infinite=True)
    use_compilation_cache()
    from unified_jax.runs.link import link
    from unified_jax.runs.listing import LINKED
    from unified_jax.runs.stages import parse_places

    run_dir = Path(command.run or Path("runs") / recipe_label(recipe))
    summary = link(command.experiment, run_dir, parse_places(command.stage), command.trust)
    print(f"Linked {', '.join(summary[LINKED])}; run directory: {run_dir}")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
