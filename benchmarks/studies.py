"""What the shipped studies cost, and what those that ran have found, for docs/studies.md.

    python benchmarks/studies.py [RUNS]       (default: runs/studies)

Writes results/studies.json: cells and training FLOPs of every study that can be planned here (as --dry-run prints
them), and of those that RUNS holds the rows with their proof; copies their tables, plots and cells to docs/studies/.
A study that RUNS does not hold keeps what was found before. Then fills docs/studies.md.
"""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pages

from unified_jax.errors import UserError
from unified_jax.studies.cells import cells_of, plan_arms
from unified_jax.studies.study import load_study, study_names
from unified_jax.studies.timing import Stopwatch

ROOT = Path(__file__).resolve().parents[1]
SETS = {"time_sampling": {"data.data_dir": str(ROOT.parent / "shared" / "data" / "tfds")}}
"""Where a study's data lies, if it needs any."""
KEPT = ("table.md", "table.csv", "results.json", "curves.png", "forest.png")


def planned(name: str, runs: Path) -> dict[str, Any]:
    """Cells, runs and FLOPs of a study; the run that it starts from lies beside the folder of studies."""
    study = load_study(name)
    if study.init_from:
        study = dataclasses.replace(study, init_from=str(runs.parent / Path(study.init_from).name))
    arms = plan_arms(study, SETS.get(name, {}), Stopwatch(Path("nowhere")).guess)
    cells = {cell.run_dir: cell.arm.flops for cell in cells_of(arms, Path("nowhere"))}
    return {
        "study": name,
        "base": study.base,
        "arms": len(arms),
        "seeds": len(study.seed_list),
        "runs": len(cells),
        "budget": study.budget.by,
        "flops": sum(cells.values()),
    }


def main(runs: Path) -> None:
    """Plans all, collects what ran, fills the page."""
    path = ROOT / "benchmarks" / "results" / "studies.json"
    before = {row["study"]: row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}
    rows = []
    here = sys.path.pop(0)  # a study may be called as a file beside this one
    for name in study_names():
        try:
            row = planned(name, runs)
        except UserError as error:
            print(f"{name} is left as it was: {error}", file=sys.stderr)
            rows += [before[name]] if name in before else []
            continue
        if (runs / name / "results.json").exists():
            found = json.loads((runs / name / "results.json").read_text())
            one = found["cells"][0]
            row["found"] = found["rows"]
            row |= {key: one[key] for key in ("commit", "device", "versions")}
            target = ROOT / "docs" / "studies" / name
            target.mkdir(parents=True, exist_ok=True)
            for file in KEPT:
                shutil.copy(runs / name / file, target / file)
        else:
            row |= {
                key: before[name][key]
                for key in ("found", "commit", "device", "versions")
                if key in before.get(name, {})
            }
        rows.append(row)
        print(name, row["runs"], f"{row['flops']:.3g}")
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    sys.path.insert(0, here)
    pages.fill()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "studies")
