"""The files of a report: table.md, table.csv, results.json, curves.png, forest.png, and index.html.

The page works offline: it embeds its images and its style.
"""

import base64
import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unified_jax.runs.directory import write_json
from unified_jax.studies import results
from unified_jax.studies.cells import Arm, Cell
from unified_jax.studies.figures import draw_curves, draw_forest
from unified_jax.studies.study import Study

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #1c1c1c; }
h1 { margin-bottom: 0; } h2 { margin-top: 2em; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { text-align: left; padding: .3em .8em; border-bottom: 1px solid #e5e5e5; vertical-align: top; }
th { background: #f6f6f6; }
td.better, td.worse { font-weight: 600; } td.better { color: #13702f; } td.worse { color: #b3261e; }
img { max-width: 100%; } .note { color: #555; } .failed { color: #b3261e; } .wide { overflow-x: auto; }
code { font-size: 13px; background: #f3f3f3; padding: 0 .25em; } details { margin: .6em 0; }
"""


def write_report(
    name: str, study: Study, arms: tuple[Arm, ...], records: list[dict[str, Any]], out: Path
) -> list[results.Row]:
    """Writes all files and returns the rows."""
    rows = results.summarize(study, arms, records)
    draw_curves(arms, out, out / "curves.png")
    draw_forest(rows, out / "forest.png")
    (out / "table.md").write_text(markdown(name, study, rows, arms, records), encoding="utf-8")
    (out / "table.csv").write_text(results.as_csv(rows, arms, records), encoding="utf-8")
    write_json(out / "results.json", {"study": name, "base": study.base, "rows": plain_rows(rows), "cells": records})
    (out / "index.html").write_text(page(name, study, rows, arms, records, out), encoding="utf-8")
    return rows


def plain_rows(rows: list[results.Row]) -> list[dict[str, Any]]:
    """Rows as JSON values."""
    return [
        {
            "arm": row.arm,
            "metric": row.metric.title,
            "better": row.metric.better,
            "mean": _finite(row.mean),
            "difference": _finite(row.difference),
            "p": row.p,
            "p_holm": row.p_corrected,
            "seeds": list(row.seeds),
            "failed": list(row.failed),
            "verdict": row.verdict,
        }
        for row in rows
    ]


def _finite(mean: Any) -> dict[str, Any] | None:
    if mean is None:
        return None
    single = mean.n < 2
    return {
        "value": mean.value,
        "low": None if single else mean.low,
        "high": None if single else mean.high,
        "n": mean.n,
    }


def markdown(
    name: str, study: Study, rows: list[results.Row], arms: tuple[Arm, ...], records: list[dict[str, Any]]
) -> str:
    """table.md."""
    lines = [f"# {name}", "", *([study.about, ""] if study.about else []), results.NOTE, ""]
    for metric in study.metrics:
        lines += [f"## {metric.title} ({metric.better} is better)", ""]
        lines += _md_table(results.table_head(), [results.table_cells(r) for r in rows if r.metric == metric]) + [""]
    if laws := results.power_laws(study, rows, arms):
        lines += ["## Power laws", "", *(f"- {text}" for text in laws), ""]
    lines += ["## Arms", "", *_md_table(("arm", "change"), results.changes(study)), ""]
    lines += ["## Budget", "", *_md_table(results.MATCH_HEAD, results.match(arms)), ""]
    if bad := failures(records):
        lines += ["## Failed cells", "", *(f"- {text}" for text in bad), ""]
    return "\n".join([*lines, *(f"{text}  " for text in proof(study, records))]).rstrip() + "\n"


def _md_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    return [_line(head), "|" + "---|" * len(head), *(_line(row) for row in rows)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def failures(records: list[dict[str, Any]]) -> list[str]:
    """One sentence per failed cell."""
    return [f"{r['arm']}, seed {r['seed']}: {r['failed']}" for r in records if r["failed"]]


def proof(study: Study, records: list[dict[str, Any]]) -> list[str]:
    """Provenance of the numbers."""
    versions = sorted({f"{name} {v}" for r in records for name, v in r["versions"].items()})
    return [
        f"Recipe: {study.base}. Seeds: {', '.join(map(str, sorted({r['seed'] for r in records})))}.",
        *(f"Every cell starts from the run {text}." for text in results.told(records, "origin") if text),
        f"Commit: {', '.join(results.told(records, 'commit'))}.",
        f"Device: {', '.join(results.told(records, 'device'))}. {', '.join(versions)}.",
    ]


def page(
    name: str, study: Study, rows: list[results.Row], arms: tuple[Arm, ...], records: list[dict[str, Any]], out: Path
) -> str:
    """index.html."""
    parts = [f"<h1>{_text(name)}</h1>", f"<p>{_text(study.about)}</p>", f"<p class=note>{_text(results.NOTE)}</p>"]
    for metric in study.metrics:
        parts.append(f"<h2>{_text(metric.title)} <small>({metric.better} is better)</small></h2>")
        cells = [results.table_cells(r) for r in rows if r.metric == metric]
        parts.append(_html_table(results.table_head(), cells))
    parts += ["<h2>Differences to the base</h2>", _picture(out / "forest.png", "forest plot of the differences")]
    parts += ["<h2>Learning curves</h2>", "<p class=note>Means over seeds; bands from the least to the greatest.</p>"]
    parts += [_picture(out / "curves.png", "learning curves")]
    parts += [f"<p>{_text(text)}</p>" for text in results.power_laws(study, rows, arms)]
    parts += ["<h2>Arms</h2>", _html_table(("arm", "change"), results.changes(study))]
    parts += ["<h2>Budget</h2>", _html_table(results.MATCH_HEAD, results.match(arms))]
    parts += ["<h2>Samples</h2>", *_samples(arms, out)]
    parts += [
        "<h2>Cells</h2>",
        *(f"<p class=failed>{_text(text)}</p>" for text in failures(records)),
        _cells(study, records),
    ]
    parts += [f"<p class=note>{_text(text)}</p>" for text in proof(study, records)]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_text(name)}</title>'
    lines = (
        "<!doctype html>",
        f"<html lang=en><head>{head}<style>{STYLE}</style></head>",
        "<body>",
        *parts,
        "</body></html>",
    )
    return "\n".join(lines) + "\n"


def _samples(arms: tuple[Arm, ...], out: Path) -> list[str]:
    """The image grids of every arm's first scored seed, or its last preview."""
    found = []
    for arm in arms:
        for seed in arm.seeds:
            cell = Cell(arm, seed, out)
            sheets = sorted(cell.folder.glob("*.png")) or sorted((cell.run_dir / "previews").glob("*.png"))[-1:]
            if sheets:
                pictures = "".join(f"<p class=note>{_text(s.stem)}</p>{_picture(s, s.stem)}" for s in sheets)
                found.append(f"<details open><summary>{_text(arm.name)}, seed {seed}</summary>{pictures}</details>")
                break
    return found or ["<p class=note>No metric of this study needs samples.</p>"]


def _cells(study: Study, records: list[dict[str, Any]]) -> str:
    titles = [m.title for m in study.metrics]
    head = ("arm", "seed", "steps", *titles, "config hash", "commit", "device")
    rows = [
        (
            *(r["arm"], str(r["seed"]), str(r["steps"])),
            *(f"{r['values'][t]:.5g}" if t in r["values"] else "failed" if r["failed"] else "-" for t in titles),
            *(r["config_hash"], str(r["commit"])[:12], r["device"]),
        )
        for r in records
    ]
    return _html_table(head, rows)


def _html_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    top = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td{_kind(cell)}>{_text(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<div class=wide><table>\n<tr>{top}</tr>\n{body}</table></div>"


def _kind(cell: str) -> str:
    return f" class={cell}" if cell in ("better", "worse") else ""


def _picture(path: Path, alternative: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{_text(alternative)}" src="data:image/png;base64,{data}">'


def _text(value: str) -> str:
    return html.escape(str(value))
