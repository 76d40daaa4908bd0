"""Train a recipe: `python train.py RECIPE [--flags]`; `python train.py RECIPE --help` lists the flags."""

import sys

from unified_jax.cli.train import run

if __name__ == "__main__":
    sys.exit(run())
