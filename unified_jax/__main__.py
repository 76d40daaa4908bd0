"""`python -m unified_jax COMMAND ...` is `unified-jax COMMAND ...`."""

import sys

from unified_jax.cli.main import run

if __name__ == "__main__":
    sys.exit(run())
