"""The any-to-any matrix of `transfusion_world`: by which plan it is sampled, on a validation split, and its goals.

    python benchmarks/any_to_any.py RUN [--out FOLDER] [--count 128] [--plans NAME ...]

The plans are compared on scenes of the split train, which no reported figure is of; the run's own plan is what
`evaluate` then samples the split test with, once. Each is an evaluation in OUT/NAME, which is not made again where it
is there. Writes benchmarks/results/any_to_any.json.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from turns import write

import unified_jax as uj
from unified_jax.runs.evaluate import EvaluateCommand, evaluate_run

GOALS = {"caption -> image": 0.95, "all others -> caption": 0.97, "image -> video": 0.6, "pairs": 0.7, "joint": 0.65}


def plans_of(own: uj.SamplingPlan) -> dict[str, uj.SamplingPlan]:
    """The plans that are compared."""
    return {
        "the recipe's": own,
        "at once": replace(own, through=()),
        "12 steps": replace(own, steps=12),
        "8 steps": replace(own, steps=8),
        "guidance 1.5": replace(own, guidance=uj.Guidance(1.5)),
        "guidance 4": replace(own, guidance=uj.Guidance(4.0)),
    }


def summary_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Single rows, the mean over pairs, everything made together, and how many pairs are not above chance."""
    accuracy = [row for row in rows if row["metric"] == "attribute_accuracy"]
    pairs = [row for row in accuracy if len(row["given"]) == 1]
    joint = max((row for row in rows if row["metric"] == "consistency"), key=lambda row: len(row["wanted"]))

    def one(given: str, wanted: str) -> float:
        return next(row["value"] for row in pairs if (row["given"], row["wanted"]) == ([given], [wanted]))

    rest = next(row["value"] for row in accuracy if len(row["given"]) > 1 and row["wanted"] == ["caption"])
    return {
        "caption -> image": one("caption", "image"),
        "all others -> caption": rest,
        "image -> video": one("image", "video"),
        "pairs": sum(row["value"] for row in pairs) / len(pairs),
        "joint": joint["value"],
        "not above chance": sum(not row["above_chance"] for row in rows),
    }


def rows_of(run: Path, out: Path, split: str, count: int, plan: uj.SamplingPlan) -> list[dict[str, Any]]:
    """The rows of one evaluation."""
    path = out / "evaluation.json"
    if not path.is_file():
        evaluate_run(EvaluateCommand(str(run), out=str(out), count=count, splits=(split,), trust=True), plan)
    found = json.loads(path.read_text())
    if (found["count"], {row["split"] for row in found["rows"]}) != (count, {split}):
        raise SystemExit(f"{path} is of another evaluation.")
    return found["rows"]


def main() -> None:
    """Evaluates, tells, writes."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=128)
    plans = plans_of(uj.load(parser.parse_known_args()[0].run, trust=True).plan())
    parser.add_argument("--plans", nargs="*", choices=tuple(plans), default=tuple(plans))
    asked = parser.parse_args()
    out = asked.out or asked.run / "plans"
    arms = {}
    for name, plan in ((name, plans[name]) for name in asked.plans):
        folder = out / "".join(c for c in name.replace(" ", "_") if c.isalnum() or c == "_")
        arms[name] = summary_of(rows_of(asked.run, folder, "train", asked.count, plan))
        print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in arms[name].items()))
    tested = json.loads((asked.run / "evaluation.json").read_text())
    splits = {split: summary_of([r for r in tested["rows"] if r["split"] == split]) for split in ("test", "held_out")}
    missed = [name for name, least in GOALS.items() if splits["test"][name] < least]
    print(f"goals {'missed: ' + ', '.join(missed) if missed else 'reached'}; {splits}")
    commit = json.loads((asked.run / "summary.json").read_text())["commit"]
    made = {"recipe": asked.run.name, "trained_at": commit, "goals": GOALS, "missed": missed, "count": asked.count}
    write("any_to_any", made | {"splits": splits, "plans": arms})


if __name__ == "__main__":
    main()
