"""Train a recipe: `python train.py RECIPE [--flags]`; `python train.py RECIPE --help` lists the flags."""

import os
import sys

from unified_jax.cli.entry import run_command
from unified_jax.cli.heap import keep_heap
from unified_jax.cli.train import main

if __name__ == "__main__":
    keep_heap()
    code = run_command(main, sys.argv[1:])
    if code == 1:  # the writers of a failed run would only complain again on their way out
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
