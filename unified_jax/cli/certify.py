"""`python -m unified_jax.cli.certify DIR`: compares with the reference numbers of a folder (`certify/files.py`)."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from unified_jax.certify.files import certify
from unified_jax.cli.entry import run_command
from unified_jax.errors import RunError, UserError
from unified_jax.runs.flags import parse


@dataclass(frozen=True)
class CertifyCommand:
    """Compare with reference numbers."""

    folder: tyro.conf.Positional[str]
    """Folder of .safetensors files with `golden` metadata, and optionally manifest.json."""
    json: str = ""
    """Write the rows to this file."""
    only: str = ""
    """Only files whose name starts with this."""
    failures: bool = False
    """Print only rows that do not pass."""


def main(arguments: list[str]) -> None:
    """Runs the command."""
    command = parse(CertifyCommand, "unified-jax certify", arguments)
    rows = certify(Path(command.folder), command.only)
    for row in rows:
        if not (command.failures and row.verdict.startswith(("pass", "uncovered"))):
            error = "-" if row.error is None else f"{row.error:.3g}"
            verdict, _, reason = row.verdict.partition(": ")
            print(
                f"{verdict:15s} {row.file:44s} {row.output:40s} {error:>10s} {row.tolerance:10.3g}  {reason}".rstrip()
            )
    verdicts = ("pass", "fail", "uncovered", "reference error", "another function")
    count = {verdict: sum(row.verdict.startswith(verdict) for row in rows) for verdict in verdicts}
    print(", ".join(f"{value} {name}" for name, value in count.items()))
    if command.json:
        try:
            Path(command.json).write_text(json.dumps([row.__dict__ for row in rows], indent=1) + "\n")
        except OSError as error:
            raise UserError(f"--json {command.json!r} cannot be written: {error.strerror or error}.") from error
    if count["fail"]:
        raise RunError(f"{count['fail']} outputs differ from the reference by more than their tolerance.")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
