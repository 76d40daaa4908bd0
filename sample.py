"""Draw samples from a run: `python sample.py --run runs/quickstart --given.caption "a small red circle"`."""

import sys

from unified_jax.cli.entry import run_command
from unified_jax.cli.sample import main

if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
