"""`python -m unified_jax.cli.evaluate --run DIR`: accuracy, distances, a sample grid."""

import sys

from unified_jax.cli.entry import run_command, start_process, use_compilation_cache
from unified_jax.runs.evaluate import EvaluateCommand, evaluate_run
from unified_jax.runs.flags import parse


def main(arguments: list[str]) -> None:
    """Runs the command."""
    command = parse(EvaluateCommand, "unified-jax evaluate", arguments)
    use_compilation_cache()
    start_process(command.hosts)
    evaluate_run(command)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
