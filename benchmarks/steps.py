"""How many steps a sampler should take, and with what guidance: the accuracy of an evaluation for each.

    python benchmarks/steps.py RUN [--steps 8 12 16 32 64] [--guidance 1.5 2.5] [--count 512] [--split test]

RUN is a run with one attribute accuracy, such as one of quickstart or world_text. Each pair is an evaluation of its own
in RUN/steps/STEPS_GUIDANCE_COUNT_SPLIT, seed 0, which is not made again where it is there. Writes
benchmarks/results/steps.json, where other recipes' rows stay.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from turns import RESULTS, write

from unified_jax.runs.evaluate import EvaluateCommand, evaluate_run

METRICS = ("attribute_accuracy", "accuracy/shape", "count_accuracy")


def rows_of(run: Path, steps: int, guidance: float, count: int, split: str) -> dict[str, Any]:
    """The metrics of one evaluation, and the ends of the first one's interval."""
    out = run / "steps" / f"{steps}_{guidance:g}_{count}_{split}"
    if not (out / "evaluation.json").is_file():
        evaluate_run(
            EvaluateCommand(
                str(run), out=str(out), count=count, splits=(split,), steps=steps, guidance=guidance, trust=True
            )
        )
    found = {row["metric"]: row for row in json.loads((out / "evaluation.json").read_text())["rows"]}
    first = found[METRICS[0]]
    ends = {"low": first["low"], "high": first["high"], "n": first["n"]}
    return {"steps": steps, "guidance": guidance, "split": split} | {m: found[m]["value"] for m in METRICS} | ends


def main() -> None:
    """Evaluates, tells, writes."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 12, 16, 32, 64])
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.5, 2.5])
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--split", default="test")
    asked = parser.parse_args()
    pairs = itertools.product(asked.guidance, asked.steps)
    rows = [rows_of(asked.run, steps, guidance, asked.count, asked.split) for guidance, steps in pairs]
    for row in rows:
        print({name: value if isinstance(value, str) else round(value, 3) for name, value in row.items()})
    path = RESULTS / "steps.json"
    kept = json.loads(path.read_text())["runs"] if path.is_file() else {}
    write("steps", {"runs": kept | {asked.run.resolve().name: rows}})


if __name__ == "__main__":
    main()
