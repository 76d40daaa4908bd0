"""`unified-jax COMMAND ...`, also `python -m unified_jax COMMAND ...`: every command under one name."""

import importlib.metadata
import sys
from collections.abc import Callable

from unified_jax.cli.entry import run_command
from unified_jax.cli.heap import keep_heap
from unified_jax.errors import UserError, meant

COMMANDS = {
    "train": "train a recipe",
    "link": "make one run of several: a chain of models",
    "sample": "draw samples from a run",
    "evaluate": "accuracy, distances and a sheet of a run",
    "distance": "FID and its relatives between two sets of pictures",
    "ablate": "run a study: variants, seeds, intervals",
    "runs": "list runs; compare some of them",
    "probe": "attention, similarity, gradient noise and loss of a run",
    "plan": "memory, time and traffic on devices that are not there",
    "data": "build data sets, and compute features of frozen encoders",
    "convert": "import and export weights",
    "certify": "compare with files of reference numbers",
}


def command_of(word: str) -> Callable[[list[str]], None]:
    """A command's `main`; its module is imported here, not before. Raises UserError for an unknown one."""
    match word:
        case "train":
            from unified_jax.cli.train import main
        case "link":
            from unified_jax.cli.link import main
        case "sample":
            from unified_jax.cli.sample import main
        case "evaluate":
            from unified_jax.cli.evaluate import main
        case "distance":
            from unified_jax.cli.distance import main
        case "ablate":
            from unified_jax.cli.ablate import main
        case "probe":
            from unified_jax.cli.probe import main
        case "runs":
            from unified_jax.cli.runs import main
        case "plan":
            from unified_jax.cli.plan import main
        case "data":
            from unified_jax.cli.data import main
        case "convert":
            from unified_jax.cli.convert import main
        case "certify":
            from unified_jax.cli.certify import main
        case _:
            raise UserError(f"Unknown command {word!r}{meant(word, COMMANDS)} Commands: {', '.join(COMMANDS)}.")
    return main


def overview() -> str:
    """The output of `unified-jax --help`."""
    wide = max(map(len, COMMANDS))
    lines = [f"  {name:{wide}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: unified-jax COMMAND [...]", "", *lines, "", "unified-jax COMMAND --help says more."])


def run(arguments: list[str] | None = None) -> int:
    """The exit code of a command line; without arguments, or with --help, an overview."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version", "version"):
        print(importlib.metadata.version("unified_jax"))
        return 0
    if words[0] == "train":
        from unified_jax.cli.train import run as train

        return train(words[1:])
    if words[0] == "ablate":
        keep_heap()
    return run_command(lambda rest: command_of(words[0])(rest), words[1:])


if __name__ == "__main__":
    sys.exit(run())
