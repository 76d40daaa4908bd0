"""Trains and scores the missing cells of a study; a failed cell records why."""

import shutil
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from unified_jax.config import config_hash
from unified_jax.errors import RunError, meant
from unified_jax.runs.directory import provenance, read_json, write_json
from unified_jax.runs.evaluate import EvaluateCommand, evaluate_run
from unified_jax.runs.loop import Interrupt, train
from unified_jax.runs.metrics import read_lines
from unified_jax.runs.notice import say
from unified_jax.runs.seeds import train_together
from unified_jax.runs.start import Start
from unified_jax.studies.cells import Arm, Cell, cells_of, samples_of
from unified_jax.studies.study import Metric, Study
from unified_jax.studies.timing import Stopwatch


class Stopped(Exception):
    """SIGTERM or Ctrl-C: everything is saved."""


class Bar:
    """Steps over all cells, with the cell that is being trained."""

    def __init__(self, cells: list[Cell], study: Study) -> None:
        self.total = len(cells)
        self.done = sum(cell.record(study) is not None for cell in cells)
        self.at = {cell.run_dir: cell.trained_steps for cell in cells}
        whole = sum({cell.run_dir: cell.arm.experiment.steps for cell in cells}.values())
        self.bar = tqdm(total=whole, initial=min(whole, sum(self.at.values())), unit="step", dynamic_ncols=True)

    def show(self, what: str) -> None:
        """Sets the description."""
        self.bar.set_description(f"{self.done}/{self.total} cells, {what}")

    def reach(self, run_dir: Path, step: int) -> None:
        """Reports the step of a run."""
        self.bar.update(max(0, step - self.at[run_dir]))
        self.at[run_dir] = max(step, self.at[run_dir])


def run_study(study: Study, arms: tuple[Arm, ...], out: Path) -> list[dict[str, Any]]:
    """The records of all cells. Raises Stopped."""
    cells = cells_of(arms, out)
    bar, watch = Bar(cells, study), Stopwatch(out)
    records = []
    try:
        with Interrupt() as interrupt:  # between runs; a run has its own handler
            for arm in arms:
                own = [cell for cell in cells if cell.arm is arm]
                _train_group(study, own, watch, bar)
                for cell in own:
                    if interrupt.received:
                        raise Stopped
                    records.append(_finish_cell(study, cell, bar))
                jax.clear_caches()  # the next arm has its own programs
    finally:
        bar.bar.close()
    return records


def _train_group(study: Study, cells: list[Cell], watch: Stopwatch, bar: Bar) -> None:
    """Trains seeds of an arm together where that is faster; on any error they are trained one by one."""
    waiting = [cell for cell in cells if not cell.trained and cell.record(study) is None]
    if study.together == "never" or len(waiting) < 2 or len({cell.trained_steps for cell in waiting}) > 1:
        return
    experiments = tuple(cell.experiment for cell in waiting)
    if study.together == "auto" and (jax.device_count() > 1 or experiments[0].reduction != "fast"):
        return
    try:
        bar.show(f"{waiting[0].arm.name}: are seeds faster together?")
        if study.together == "auto" and not watch.together_is_faster(experiments[0], len(waiting)):
            return
        bar.show(f"{waiting[0].arm.name}, {len(waiting)} seeds together")
        starts = tuple(_start(study, cell, bar) for cell in waiting)
        summaries = train_together(experiments, starts)
    except Exception as error:  # one by one, the failing cell is found and the others are trained
        why = _sentence(error, waiting[0].out)
        say(f"{waiting[0].arm.name}: its seeds go on one by one, because together they failed: {why}")
        return
    if not all(summary["finished"] for summary in summaries):
        raise Stopped


def _start(study: Study, cell: Cell, bar: Bar) -> Start:
    source = cell.arm.origin.run_dir if cell.arm.origin else None
    return Start(
        cell.run_dir, init_from=source, quiet=True, trust=study.trust, report=lambda step: bar.reach(cell.run_dir, step)
    )


def _finish_cell(study: Study, cell: Cell, bar: Bar) -> dict[str, Any]:
    """Finishes the training of a cell, scores it, writes and returns its record."""
    known = cell.record(study)
    if known is not None and not known["failed"]:
        return known
    try:
        if not cell.trained:
            bar.show(cell.name)
            summary = train(cell.experiment, _start(study, cell, bar))
            if not summary["finished"]:
                raise Stopped
        bar.show(f"{cell.name}, samples")
        values, failed = _score(study, cell), ""
    except Stopped:
        raise
    except Exception as error:  # of one cell; the others continue
        values, failed = {}, _sentence(error, cell.out)
        say(f"{cell.name} failed: {failed}")
    record = {
        "arm": cell.arm.name,
        "steps": cell.arm.experiment.steps,
        "samples": samples_of(study),
        "values": values,
        "failed": failed,
        "trained": cell.run_dir.name,
        "origin": cell.origin,
        "code": cell.code,
    }
    record |= provenance(cell.experiment)
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_json(cell.folder / "cell.json", record)
    bar.done += not failed
    return record


def _sentence(error: Exception, out: Path) -> str:
    """The error, independent of the study's folder."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.replace(f"{out}/", "")[:300]


def _score(study: Study, cell: Cell) -> dict[str, float]:
    """Metric title -> value. Raises RunError for a metric that the cell does not have."""
    rows: list[dict[str, Any]] = []
    if samples_of(study):
        rows = _rows(study, cell)
    found = {}
    for metric in study.metrics_of(cell.arm.name):
        value = _of_rows(metric, rows) if metric.evaluated else _of_run(metric, cell)
        if value is None:
            have = sorted({row["metric"] for row in rows}) if metric.evaluated else ["loss"]
            near = meant(metric.name, have)
            there = ", ".join(have) or "none"
            raise RunError(f"The metric {metric.title!r} has no value here{near} There are: {there}.")
        found[metric.title] = float(value)
    return found


def _rows(study: Study, cell: Cell) -> list[dict[str, Any]]:
    """The rows of evaluation.json, evaluated now if missing."""
    splits = tuple(sorted({m.split for m in study.metrics if m.evaluated}))
    asked = {"trained": cell.run_dir.name, "config_hash": config_hash(cell.experiment), "samples": study.samples}
    asked |= {"splits": list(splits)}
    marker = cell.folder / "evaluated.json"
    if read_json(marker) != asked:
        shutil.rmtree(cell.folder, ignore_errors=True)
        command = EvaluateCommand(str(cell.run_dir), str(cell.folder), study.samples, splits, trust=True)
        evaluate_run(command, cell.experiment.preview.plan, bars=False)
        write_json(marker, asked)
    return (read_json(cell.folder / "evaluation.json") or {"rows": []})["rows"]


def _of_rows(metric: Metric, rows: list[dict[str, Any]]) -> float | None:
    for row in rows:
        pair = (not metric.given and not metric.wanted) or (tuple(row["given"]), tuple(row["wanted"])) == (
            metric.given, metric.wanted,
        )  # fmt: skip
        if row["metric"] == metric.name and row["split"] == metric.split and pair:
            return row["value"]
    return None


def _of_run(metric: Metric, cell: Cell) -> float | None:
    lines = read_lines(cell.run_dir / "metrics.jsonl")
    return next((line[metric.name] for line in reversed(lines) if metric.name in line), None)


def curve(run_dir: Path, name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of a metric of a run; empty if it was not trained."""
    path = run_dir / "metrics.jsonl"
    lines = [line for line in read_lines(path) if line.get(name) is not None] if path.exists() else []
    return [line["step"] for line in lines], [line[name] for line in lines]
