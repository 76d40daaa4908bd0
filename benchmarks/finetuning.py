"""What fine-tuning reaches and what it forgets: edits, a further modality, emoji; for docs/finetuning.md.

    python benchmarks/finetuning.py edits|action|emoji [RUNS]       (default: runs)

RUNS holds transfusion_world and quickstart, trained; tuned runs go to RUNS/finetuning. Each task trains what is not
there, evaluates, and puts its part into results/finetuning.json, with commit, configurations and device; then fills
the page. On two CPU cores edits take about 12 minutes, action 30, emoji 8.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pages

from unified_jax.cli import train
from unified_jax.evaluation.statistics import student_mean
from unified_jax.runs.evaluate import EvaluateCommand, evaluate_run

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "finetuning.json"
FIGURES = ROOT / "docs" / "figures"
ACTION = {
    "trunk frozen": (),
    "LoRA, rank 16": ("--tuning.lora", "blocks/(attention|mlp)", "--tuning.rank", "16", "--tuning.alpha", "16"),
    "all trained": ("--tuning.train", ".*"),
}
SAMPLES = 64
"""Of every pair of the matrix."""


def run_once(recipe: str, run: Path, *flags: str) -> dict[str, Any]:
    """Trains where it has not, without an evaluation; what summary.json says."""
    if not (run / "summary.json").is_file():
        train.main([recipe, "--run-dir", str(run), "--evaluate", "0", *flags])
    return json.loads((run / "summary.json").read_text())


def evaluated(run: Path, out: Path, count: int, splits: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of an evaluation, which is done once."""
    if not (out / "evaluation.json").is_file():
        evaluate_run(EvaluateCommand(str(run), str(out), count=count, splits=splits))
    return json.loads((out / "evaluation.json").read_text())["rows"]


def edits(runs: Path) -> dict[str, Any]:
    """Before (one step at a rate that moves nothing) and after."""
    base, found = str(runs / "transfusion_world"), {}
    still = ("--steps", "1", "--optimizer.learning-rate", "1e-12", "--optimizer.warmup-steps", "0")
    for name, flags in (("before", still), ("after", ())):
        run = runs / "finetuning" / f"edits_{name}"
        summary = run_once("world_edits", run, "--init-from", base, *flags)
        rows = evaluated(run, run, 256, ("test", "held_out"))
        found[name] = {"rows": rows, "steps": summary["step"], "seconds": summary["time/seconds"]} | proof(summary)
        if name == "after":
            shutil.copy(run / "evaluation_test.png", FIGURES / "world_edits.png")
    return found


def action(runs: Path) -> dict[str, Any]:
    """The matrix before, and after each way of tuning."""
    base = runs / "transfusion_world"
    before = evaluated(base, runs / "finetuning" / "action_before", SAMPLES, ("test",))
    old = {key(row): row["value"] for row in before if row["value"] is not None and row["given"]}
    found = []
    for name, flags in ACTION.items():
        run = runs / "finetuning" / f"action_{name.split()[0].strip(',').lower()}"
        summary = run_once("world_with_action", run, "--init-from", str(base), *flags)
        rows = [row for row in evaluated(run, run, SAMPLES, ("test",)) if row["value"] is not None]
        changes = [row["value"] - old[key(row)] for row in rows if key(row) in old]
        pairs = [row for row in rows if "action" in row["given"] + row["wanted"] and len(row["wanted"]) == 1]
        found.append(
            {
                "tuning": name,
                "parameters": summary["parameters"],
                "seconds": summary["time/seconds"],
                "steps": summary["step"],
                "new_pairs": pairs,
                "change_of_old": student_mean(changes)._asdict(),
                "old_pairs": len(changes),
                "worst_change": min(changes),
            }
            | proof(summary)
        )
    return {"before": before, "tuned": found, "samples": SAMPLES}


def emoji(runs: Path) -> dict[str, Any]:
    """Validation losses from the world's parameters, and from none."""
    data = ("--data.data-dir", str(ROOT.parent / "shared" / "data" / "tfds"))
    found = {}
    for name, flags in (("world", ("--init-from", str(runs / "quickstart"))), ("nothing", ())):
        run = runs / "finetuning" / f"emoji_from_{name}"
        summary = run_once("emoji_from_world", run, *data, *flags)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = [[line["step"], line["validation/loss"]] for line in lines if "validation/loss" in line]
        rows = evaluated(run, run, 64, ("test",))
        found[name] = {"validation": losses, "rows": rows, "seconds": summary["time/seconds"]} | proof(summary)
        shutil.copy(run / "evaluation_test.png", FIGURES / f"emoji_from_{name}.png")
    return found


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """The request of a row."""
    return (tuple(row["given"]), tuple(row["wanted"]))


def proof(summary: dict[str, Any]) -> dict[str, Any]:
    """Where a run comes from."""
    return {name: summary[name] for name in ("commit", "config_hash", "seed", "device", "versions")}


def main(task: str, runs: Path) -> None:
    """One task."""
    found = {"edits": edits, "action": action, "emoji": emoji}[task](runs)
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps(results | {task: found}, indent=1) + "\n")
    pages.fill()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "runs")
