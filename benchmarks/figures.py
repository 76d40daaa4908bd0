"""Writes docs/figures/ and docs/measurements.{json,md} from runs that ended (also early ones).

    python benchmarks/figures.py [RUNS]         (default: runs)

For every recipe with a run in RUNS/RECIPE (and RUNS/RECIPE_seedN): its summary, evaluation, distances (`evaluate
--against`; the table is on docs/evaluation.md) and sheet of samples. A
recipe without one keeps what was measured before (each row carries its commit). Nothing is typed in.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def measured(run: Path) -> dict[str, Any] | None:
    """What a run's own files say of it, or None where it has no summary."""
    if not (run / "summary.json").is_file():
        return None
    summary = json.loads((run / "summary.json").read_text())
    kept = ("step", "loss", "parameters", "flops_per_step", "time/seconds", "time/data_wait_share")
    found = {name: summary[name] for name in kept}
    found |= {name: summary[name] for name in ("commit", "config_hash", "seed", "device", "versions")}
    if (run / "evaluation.json").is_file():
        found["evaluation"] = json.loads((run / "evaluation.json").read_text())["rows"]
    if (run / "distances.json").is_file():  # `evaluate --against`
        distances = json.loads((run / "distances.json").read_text())
        found["distances"] = {name: distances[name] for name in ("rows", "step", "against", "plan", "sampling_seed")}
    return found


def table(measurements: dict[str, dict[str, Any]]) -> str:
    """The Markdown page."""
    lines = [
        "# Measurements",
        "",
        "Written by `python benchmarks/figures.py` from runs that ended; `docs/measurements.json` has all.",
        "Seconds (shared machine) say little. Intervals are of samples; `NAME_seedN` is the recipe with another seed.",
        "",
        "| recipe | steps | seconds | waiting for data | parameters | loss | device |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, m in measurements.items():
        lines.append(
            f"| {name} | {m['step']} | {m['time/seconds']:.0f} | {100 * m['time/data_wait_share']:.1f} % "
            f"| {m['parameters'] / 1e6:.2f} M | {m['loss']:.4f} | {m['device']} |"
        )
    lines += ["", "| recipe | split | metric | value | 95 % interval | chance | n |", "|---|---|---|---|---|---|---|"]
    for name, m in measurements.items():
        for row in m.get("evaluation", []):
            interval = "" if row["low"] is None else f"[{row['low']:.3f}, {row['high']:.3f}]"
            chance = "" if row["chance"] is None else f"{row['chance']:.3f}"
            if row["value"] is None:
                continue
            start = f"| {name} | {row['split']} | {_what(row, m['evaluation'])} | {row['value']:.3f}"
            lines.append(f"{start} | {interval} | {chance} | {row['n']} |")
    return "\n".join(lines) + "\n"


def _what(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The metric; of a model that makes several modalities, what was given and made."""
    if len({tuple(other["wanted"]) for other in rows}) == 1:
        return row["metric"]
    given = "all others" if len(row["given"]) > 1 else "".join(row["given"]) or "nothing"
    made = " and ".join(row["wanted"]) if len(row["wanted"]) <= 2 else "everything"
    doubt = "" if row.get("above_chance", True) else " (not above chance)"
    return f"{row['metric']}, {given} -> {made}{doubt}"


def seeds_of(runs: Path, recipe: str) -> list[str]:
    """Further trainings of a recipe, RUNS/RECIPE_seed1, ..."""
    return sorted(path.name for path in runs.glob(f"{recipe}_seed*"))


def main(runs: Path) -> None:
    """Collects every recipe's run."""
    recipes = [path.stem for path in sorted((ROOT / "configs").glob("*.py"))]
    names = [name for recipe in recipes for name in (recipe, *seeds_of(runs, recipe))]
    found = {name: measured(runs / name) for name in names}
    new = {name: m for name, m in found.items() if m is not None}
    path = DOCS / "measurements.json"
    measurements = dict(sorted(((json.loads(path.read_text()) if path.is_file() else {}) | new).items()))
    (DOCS / "figures").mkdir(exist_ok=True)
    for name in new:
        sheets = {
            "evaluation_test": "",
            "matrix_test": "_matrix",
            "evaluation_test_caption_to_image": "_caption_to_image",
        }
        for sheet, suffix in (sheets | {"evaluation_test_joint": "_joint"}).items():
            if (runs / name / f"{sheet}.png").is_file():
                shutil.copy(runs / name / f"{sheet}.png", DOCS / "figures" / f"{name}{suffix}.png")
    path.write_text(json.dumps(measurements, indent=1) + "\n")
    (DOCS / "measurements.md").write_text(table(measurements))
    print(f"{len(new)} of {len(measurements)} recipes anew: {', '.join(new)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs")
