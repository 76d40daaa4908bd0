"""`unified-jax data ACTION`: looking at data sets, checking, building and fetching them, features of encoders."""

import sys

from unified_jax.cli.entry import run_command
from unified_jax.errors import UserError, meant

ACTIONS = {
    "show": "what a folder, table, tar or recipe holds, and a sheet of its records",
    "check": "read every record of a recipe once; all faults by kind",
    "build": "write any source as ArrayRecord files, or the world as a TFDS set",
    "get": "fetch a public set; without a name, list them",
    "encode": "compute the features of a recipe's frozen encoders",
    "latents": "measure scale and shift of an autoencoder's latents",
}


def main(arguments: list[str]) -> None:
    """Runs the action."""
    word, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    match word:
        case "show":
            from unified_jax.cli.datasets.show import main as action
        case "check":
            from unified_jax.cli.datasets.check import main as action
        case "build" if rest[:1] == ["unified_world"]:
            from unified_jax.cli.datasets.world import main as action
        case "build":
            from unified_jax.cli.datasets.build import main as action
        case "get":
            from unified_jax.cli.datasets.get import main as action
        case "encode":
            from unified_jax.cli.datasets.encode import main as action
        case "latents":
            from unified_jax.runs.latents import main as action
        case "-h" | "--help":
            print(overview())
            raise SystemExit(0)
        case _:
            raise UserError(f"Unknown action {word!r}{meant(word, ACTIONS)} Actions: {', '.join(ACTIONS)}.")
    action(rest)


def overview() -> str:
    """The output of `unified-jax data --help`."""
    wide = max(map(len, ACTIONS))
    lines = [f"  {name:{wide}}  {what}" for name, what in ACTIONS.items()]
    return "\n".join(
        ["usage: unified-jax data ACTION ...", "", *lines, "", "unified-jax data ACTION --help says more."]
    )


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
