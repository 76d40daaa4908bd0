"""The goals of `quickstart`, of several seeds: accuracy, shapes, one object where labels are left out, edges.

    unified-jax train quickstart --seed 1 --run-dir runs/quickstart_1          (and 0, 2)
    python benchmarks/quickstart_goals.py RUN RUN RUN [--count 2048]

Of the split test: the lower ends of the 95 % intervals of the attributes, of the shape, and of exactly one object where
only shape and colour are named; and the sharpness (`sharpness.py`). Writes benchmarks/results/quickstart_goals.json.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sharpness import ratio
from turns import write

import unified_jax as uj
from unified_jax.data.pipeline import Pipeline
from unified_jax.runs.evaluate import EvaluateCommand, evaluate_run

LEAST = {"attribute_accuracy": 0.975, "accuracy/shape": 0.96, "one object": 0.95}
SHARP = (0.95, 1.05)


def scores(run: uj.Run, count: int, only: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Metric -> row of the split test, where `only` these labels are named."""
    with tempfile.TemporaryDirectory() as out:
        command = EvaluateCommand(str(run.folder), out=out, count=count, splits=("test",), only=only, trust=True)
        return {row["metric"]: row for row in evaluate_run(command, run.plan(), bars=False)}


def sharpness(run: uj.Run, count: int = 512) -> dict[str, float]:
    """The ratio of `sharpness.py`, and its interval."""
    batch = Pipeline(run.experiment.data, "test", run.model.modalities, count, 0).batch(0).arrays
    given = {m.name: batch[m.name].tolist() for m in run.model.modalities if m.name != "image"}
    made = np.asarray(run.sample(given, count=count)["image"])
    return dict(zip(("value", "low", "high"), ratio(made, batch["image"]), strict=True))


def main() -> None:
    """Evaluates, tells, writes."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=2048)
    asked = parser.parse_args()
    rows, missed = [], []
    for run in (uj.load(folder) for folder in asked.runs):
        whole, part = scores(run, asked.count), scores(run, asked.count, ("shape", "colour"))
        found = {name: whole[name] for name in ("attribute_accuracy", "accuracy/shape")}
        found["one object"] = part["count_accuracy"]
        row = {name: {key: one[key] for key in ("value", "low", "high")} for name, one in found.items()}
        row["sharpness"] = sharpness(run)
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
