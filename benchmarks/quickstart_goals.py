"""The goals of `quickstart`, of several seeds: accuracy, shapes, one object where labels are left out, edges.

    unified-jax train quickstart --seed 1 --run-dir runs/quickstart_1          (and 0, 2)
    python benchmarks/quickstart_goals.py RUN RUN RUN [--count 2048]

Of the split test: the lower ends of the 95 % intervals of the attributes, of the shape, and of exactly one object where
only shape and colour are named; and the sharpness (`sharpness.py`). Writes benchmarks/results/quickstart_goals.json.
"""

import argparse
from pathlib import Path

from completed import scores
from sharpness import drawn, ratio
from turns import write

import unified_jax as uj

LEAST = {"attribute_accuracy": 0.975, "accuracy/shape": 0.96, "one object": 0.95}
SHARP = (0.95, 1.05)


def main() -> None:
    """Evaluates, tells, writes."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=2048)
    asked = parser.parse_args()
    rows, missed = [], []
    for run in (uj.load(folder) for folder in asked.runs):
        plan = run.plan()
        whole, part = scores(run, plan, asked.count), scores(run, plan, asked.count, ("shape", "colour"))
        found = {name: whole[name] for name in ("attribute_accuracy", "accuracy/shape")}
        found["one object"] = part["count_accuracy"]
        row = {name: {key: one[key] for key in ("value", "low", "high")} for name, one in found.items()}
        row["sharpness"] = dict(zip(("value", "low", "high"), ratio(*drawn(run, min(512, asked.count))), strict=True))
        seed = run.experiment.seed
        missed += [f"{name}, seed {seed}" for name, least in LEAST.items() if row[name]["low"] < least]
        missed += [f"sharpness, seed {seed}"] * (not SHARP[0] <= row["sharpness"]["value"] <= SHARP[1])
        shown = [f"{name} {one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for name, one in row.items()]
        print(f"seed {seed}: {', '.join(shown)}", flush=True)
        rows.append({"seed": seed, "n": asked.count, "steps": run.step, **row})
    print(f"goals missed: {', '.join(missed) or 'none'}")
    write("quickstart_goals", {"least": LEAST, "sharp": SHARP, "missed": missed, "rows": rows})


if __name__ == "__main__":
    main()
