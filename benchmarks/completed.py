"""What a model of several labels draws where some are left out: by itself, and with the missing labels drawn first.

    python benchmarks/completed.py RUN [--count 512]          (a run of quickstart)

For each set of given labels, with `SamplingPlan.complete` and without: how often there is exactly one object, and how
often it has what was asked for. Writes benchmarks/results/completed.json; RUN keeps its own evaluation.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from turns import write

import unified_jax as uj
from unified_jax.runs.evaluate import EvaluateCommand, evaluate_run

GIVEN = (("shape",), ("shape", "colour"), ("colour", "place"), ("shape", "colour", "size", "place"))
METRICS = ("count_accuracy", "attribute_accuracy")


def scores(run: uj.Run, plan: uj.SamplingPlan, count: int, given: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Metric -> row of the split test, where these labels alone are given; (): all."""
    with tempfile.TemporaryDirectory() as out:
        command = EvaluateCommand(str(run.folder), out=out, count=count, splits=("test",), only=given, trust=True)
        return {row["metric"]: row for row in evaluate_run(command, plan, bars=False)}


def measure(run: uj.Run, given: tuple[str, ...], complete: bool, count: int) -> dict[str, Any]:
    """A row of the split test."""
    rows = scores(run, dataclasses.replace(run.plan(), complete=complete), count, given)
    found = {name: {key: rows[name][key] for key in ("value", "low", "high")} for name in METRICS}
    print(given, complete, {name: round(one["value"], 3) for name, one in found.items()}, flush=True)
    return {"given": given, "complete": complete, "n": count} | found


def open_asked(about: str) -> tuple[uj.Run, int]:
    """The run and the count that the command line names."""
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=512)
    asked = parser.parse_args()
    return uj.load(asked.run), asked.count


def main() -> None:
    """Measures and writes."""
    run, count = open_asked(str(__doc__))
    rows = [measure(run, given, complete, count) for given in GIVEN for complete in (False, True)]
    write("completed", {"step": run.step, "rows": rows})


if __name__ == "__main__":
    main()
