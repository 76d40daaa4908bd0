"""Run directories side by side: what each is and how far it came; two of them, setting by setting and as curves."""

from pathlib import Path
from typing import Any

from unified_jax.config import flat_fields
from unified_jax.errors import UserError
from unified_jax.runs.directory import read_config, read_json
from unified_jax.runs.metrics import read_whole_lines

Row = dict[str, Any]

LINKED = "linked"
"""In summary.json of a run that was linked: {link: its source}."""


def find_runs(folders: list[Path]) -> list[Path]:
    """The run directories among these folders and right below them, stages too, by name.

    Raises UserError for a folder that is not there.
    """
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"The folder {str(folder)!r} does not exist.")
        inside = [folder] if (folder / "config.json").is_file() else [*folder.iterdir(), *folder.glob("*/stage_*")]
        found += [path for path in inside if (path / "config.json").is_file()]
    return sorted(set(found))


def describe(run_dir: Path) -> Row:
    """One run: name, network, step of all steps, state, losses, parameters, hours. Nothing of it is executed."""
    fields, summary = flat_fields(read_config(run_dir)), read_json(run_dir / "summary.json") or {}
    lines = read_whole_lines(run_dir / "metrics.jsonl")
    losses = [line["loss"] for line in lines if line.get("loss") is not None]
    held_out = [line["validation/loss"] for line in lines if line.get("validation/loss") is not None]
    steps = fields.get("steps")
    linked = LINKED in summary
    step = max([int(summary.get("step") or 0), *(line["step"] for line in lines)])
    ended = step == steps or (bool(summary.get("finished")) and summary.get("step") == step)  # by patience
    return {
        "run": str(run_dir),
        "network": fields.get("model.network", fields.get("model", "?")),
        "step": "-" if linked else f"{step}/{steps}",
        "state": "linked" if linked else "finished" if ended else "stopped" if summary else "begun",
        "loss": losses[-1] if losses else None,
        "validation": min(held_out, default=None),
        "parameters": summary.get("parameters"),
        "hours": round(summary["time/seconds"] / 3600, 3) if "time/seconds" in summary else None,
    }


def compare(runs: list[Path]) -> list[Row]:
    """The settings in which the runs differ, a row each: field, and its value in every run ("-" where it has none)."""
    known = [flat_fields(read_config(run)) for run in runs]
    names = list(dict.fromkeys(name for fields in known for name in fields))
    rows = [{"field": name, **{str(r): k.get(name, "-") for r, k in zip(runs, known, strict=True)}} for name in names]
    return [row for row in rows if len({repr(value) for key, value in row.items() if key != "field"}) > 1]


def table(rows: list[Row]) -> str:
    """Rows of the same columns as aligned text."""
    if not rows:
        return ""
    columns = list(rows[0])
    cells = [columns, *([_cell(row[name]) for name in columns] for row in rows)]
    wide = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join("  ".join(f"{text:{w}}" for text, w in zip(line, wide, strict=True)).rstrip() for line in cells)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)[:60]


def draw_curves(runs: list[Path], path: Path) -> None:
    """Training and validation loss over steps of all runs, as one figure. Raises UserError where none has a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    shown = 0
    for i, run in enumerate(runs):
        lines = read_whole_lines(run / "metrics.jsonl")
        for name, style in (("loss", "-"), ("validation/loss", "o--")):
            points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
            if points:
                shown += 1
                label = f"{run.name} {'validation' if style != '-' else 'loss'}"
                drawn = style if len(points) > 1 else "o"  # a line through one point is not seen
                axes.plot(*zip(*points, strict=True), drawn, color=f"C{i}", label=label, markersize=3)
    if not shown:
        plt.close(figure)
        raise UserError("None of these runs has a line of metrics yet.")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
