"""The goals of `world_text`: 2,048 captions of the split held_out, in the grammar's words and in free ones, three seeds
of the sampling noise each.

    python benchmarks/goals.py RUN [--out FOLDER]          (a run of world_text)

Each is an evaluation of its own in OUT/WORDS_N, which is not made again where it is there; the lower end of the
interval of the attributes and of the number of objects is to be 0.95 or more. Writes benchmarks/results/goals.json.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from turns import write

import unified_jax as uj
from unified_jax.runs.evaluate import EvaluateCommand, evaluate_run

SEEDS, COUNT, SPLIT, LEAST = (0, 1, 2), 2048, "held_out", 0.95
METRICS = ("attribute_accuracy", "count_accuracy", "count_accuracy/1", "count_accuracy/2")
GOALS = METRICS[:2]
FREE = {"grammar": 0.0, "free": 1.0}
WORDS = {name: uj.World(resolution=32, wording=uj.Wording(free=share)) for name, share in FREE.items()}


def rows_of(run: Path, out: Path, words: str, seed: int) -> dict[str, dict[str, Any]]:
    """Metric -> row of one seed."""
    path = out / f"{words}_{seed}" / "evaluation.json"
    if not path.is_file():
        out = path.parent
        command = EvaluateCommand(str(run), out=str(out), count=COUNT, splits=(SPLIT,), seed=seed, trust=True)
        evaluate_run(command, data=WORDS[words])
    found = json.loads(path.read_text())
    asked = found["sampling_seed"], found["count"], {row["split"] for row in found["rows"]}
    if asked != (seed, COUNT, {SPLIT}):
        raise SystemExit(f"{path} is of another evaluation: {asked}.")
    return {row["metric"]: row for row in found["rows"]}


def main() -> None:
    """Evaluates, tells, writes."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    out = asked.out or asked.run / "goals"
    rows = []
    for words, seed in itertools.product(WORDS, SEEDS):
        found = rows_of(asked.run, out, words, seed)
        kept = ("metric", "value", "low", "high", "n")
        rows += [{"words": words, "seed": seed} | {key: found[m][key] for key in kept} for m in METRICS]
    reached = all(row["low"] >= LEAST for row in rows if row["metric"] in GOALS)
    for row in rows:
        shown = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        print(f"{row['words']} words, seed {row['seed']}: {row['metric']} {shown}")
    print(f"goals of {LEAST} {'reached' if reached else 'missed'}")
    commit = json.loads((asked.run / "summary.json").read_text())["commit"]
    write("goals", {"recipe": "world_text", "trained_at": commit, "reached": reached, "rows": rows})


if __name__ == "__main__":
    main()
