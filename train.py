"""Train a recipe: `python train.py RECIPE [--flags]`; `python train.py RECIPE --help` lists the flags."""

import sys

from unified_jax.cli.entry import run_command
from unified_jax.cli.train import main

if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
