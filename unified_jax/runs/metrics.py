"""The records of a run: `metrics.jsonl`, TensorBoard events, `non_finite.jsonl`, and the progress bar.

The step's metrics stay on the device until later steps have been started, so that writing never waits for the device.
Lines hold the numbers that equal runs share; what may differ between them (rates, waits) is under `time/`.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from unified_jax.config import flat_fields, to_plain
from unified_jax.data.pipeline import HostBatch
from unified_jax.errors import RunError
from unified_jax.runs.notice import say
from unified_jax.runs.tensorboard import Appender, Board
from unified_jax.runs.weights_and_biases import Wandb
from unified_jax.training.experiment import Experiment

LAG = 2
"""Steps in flight before the metrics of the oldest are read."""


class Pending(NamedTuple):
    """A step that was started and not yet read."""

    step: int
    metrics: dict[str, Any]
    batch: HostBatch


class Clock:
    """A run's time and the share of waits for data; no number is negative, infinite or NaN, whatever clocks do."""

    def __init__(self, before: float = 0.0) -> None:
        """`before`: the seconds of the run's earlier processes."""
        self.mark = time.perf_counter()
        self.before = self.total = before
        self.waited = self.total_waited = 0.0
        self.steps = 0

    def wait(self, seconds: float) -> None:
        """Counts a wait for data, and a step."""
        self.waited += max(seconds, 0.0)
        self.total_waited += max(seconds, 0.0)
        self.steps += 1

    def read(self, batch_size: int, flops: float, peak: float | None) -> dict[str, float]:
        """The `time/*` numbers since the last reading."""
        seconds = self._lap()
        step_seconds = seconds / max(self.steps, 1)
        found = {
            "time/seconds": self.total,
            "time/step_seconds": step_seconds,
            "time/examples_per_second": batch_size / step_seconds,
            "time/flops_per_second": flops / step_seconds,
            "time/data_wait_share": min(self.waited / seconds, 1.0),
        }
        if peak:
            found["time/share_of_peak"] = flops / step_seconds / peak
        self.waited, self.steps = 0.0, 0
        return found

    def whole(self) -> tuple[float, float]:
        """(seconds of the run, share of this process's that it waited for data)."""
        self._lap()
        return self.total, min(self.total_waited / max(self.total - self.before, 1e-9), 1.0)

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds = max(now - self.mark, 1e-9)
        self.mark, self.total = now, self.total + seconds
        return seconds


class MetricsWriter:
    """Appends to the files of a run directory. `resume_step` removes lines that a resumed run will write again.

    A disk that refuses a line is reported once; lines wait in memory and are tried again with the next one. In a
    process that does not write it drops everything.
    """

    def __init__(self, run_dir: Path, resume_step: int, mute: bool = False, project: str = "") -> None:
        self.mute = mute
        self.path, self.skipped_path = run_dir / "metrics.jsonl", run_dir / "non_finite.jsonl"
        self.skipped: Appender | None = None
        if mute:
            return
        try:
            for path in (self.path, self.skipped_path):
                cut_lines(path, resume_step)
            self.file = Appender(self.path)
            self.boards: list[Any] = [Board(run_dir / "tensorboard", resume_step + 1)]
            self.boards += [Wandb(project, run_dir)] if project else []
        except OSError as error:
            raise RunError(f"{self.path} cannot be written ({error}); the last checkpoint is intact.") from error

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line, and the same scalars as a TensorBoard event."""
        if self.mute:
            return
        self._append(self.file, {"step": step, **values})
        scalars = {name: value for name, value in values.items() if isinstance(value, float)}
        for name, parts in values.items():
            if name.startswith("loss_by_time") and isinstance(parts, list):
                scalars |= {f"{name}/{i:02d}": part for i, part in enumerate(parts) if part is not None}
        for board in self.boards:
            board.write(step, scalars)

    def image(self, step: int, tag: str, path: Path) -> None:
        """An image file of the run, shown by TensorBoard too."""
        if not self.mute:
            for board in self.boards:
                board.image(step, tag, path)

    def describe(self, experiment: Experiment) -> None:
        """The configuration, to TensorBoard."""
        plain = to_plain(experiment)
        short = {name: v[:200] if isinstance(v, str) else v for name, v in flat_fields(plain).items()}
        for board in () if self.mute else self.boards:
            board.describe(json.dumps(plain, indent=1), short, ["loss", "validation/loss"])

    def write_non_finite(self, step: int, batch: HostBatch, values: dict[str, Any]) -> None:
        """The step whose loss or gradient was not finite: its index, slots and example ids."""
        if self.mute:
            return
        record = {"step": step, "slots": list(range(len(batch.ids))), "ids": batch.ids.tolist(), **values}
        self.skipped = self.skipped or Appender(self.skipped_path)
        self._append(self.skipped, record)

    def _append(self, file: Appender, record: dict[str, Any]) -> None:
        waited = len(file.waiting)
        error = file.append((json.dumps(record) + "\n").encode())
        if error and not waited:
            say(f"{file.path} cannot be written ({error.strerror}); its lines are kept and tried again.")
        elif waited and not error:
            say(f"{file.path} is written again; no line was lost.")

    def close(self) -> None:
        """Closes; says how many lines never reached the disk."""
        if self.mute:
            return
        for file in filter(None, (self.file, self.skipped)):
            if file.waiting:
                say(f"{file.path} lacks its last {len(file.waiting)} line(s): the disk refused them to the end.")
            file.close()
        for board in self.boards:
            board.close()


def cut_lines(path: Path, last_step: int) -> None:
    """Keeps the complete lines of steps <= last_step, up to the first invalid one. Atomic."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n") or not _is_line(line, last_step):
            break
        kept.append(line)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(b"".join(kept))
    temporary.replace(path)


def count_lines(path: Path, last_step: int) -> int:
    """Number of lines of steps <= last_step in a file; 0 without one."""
    return len(read_whole_lines(path, last_step))


def last_value(path: Path, last_step: int, name: str) -> float | None:
    """The number of this name in the last complete line of steps <= last_step that has one."""
    records = reversed(read_whole_lines(path, last_step))
    return next((record[name] for record in records if name in record), None)


def _is_line(line: bytes, last_step: int) -> bool:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # no JSON, no UTF-8, or nonsense nested a thousand deep
        return False
    step = record.get("step") if isinstance(record, dict) else None
    return isinstance(step, int) and not isinstance(step, bool) and step <= last_step


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All lines of a metrics file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_whole_lines(path: Path, last_step: int = sys.maxsize) -> list[dict[str, Any]]:
    """The whole lines of steps <= last_step, also of a file that is being written or was torn; none without a file."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if _is_line(line, last_step)]


def to_host(metrics: dict[str, Any]) -> dict[str, Any]:
    """Device scalars to floats, vectors to lists; what is not finite becomes None (JSON has no NaN)."""

    def number(value: Any) -> float | None:
        return float(value) if math.isfinite(value) else None

    host = jax.device_get(metrics)
    return {
        name: number(value) if np.ndim(value) == 0 else [number(v) for v in np.asarray(value)]
        for name, value in host.items()
    }


class JointBar(NamedTuple):
    """The bar of several runs, and the steps of those before this one."""

    bar: Any
    before: int


def make_bar(steps: int, start: int, show: bool) -> Any:
    """A bar of steps, silent unless shown."""
    wait = 0.5 if sys.stderr.isatty() else 15
    bar = tqdm(total=steps, initial=start, unit="step", disable=not show, dynamic_ncols=True, mininterval=wait)
    # tqdm reads the wall clock, which may jump; a rate and an ETA need one that only runs forward.
    bar._time = time.monotonic  # pyright: ignore[reportAttributeAccessIssue]
    bar.start_t = bar.last_print_t = time.monotonic()
    return bar


class Progress:
    """The bar: step, rate and ETA by tqdm, and the main metrics. Silent except in the main process."""

    def __init__(
        self, steps: int, start: int, show: bool, report: Callable[[int], None] | None = None, joint: Any = None
    ) -> None:
        self.show, self.report, self.joint = show, report, joint
        self.bar, self.before = (make_bar(steps, start, show), 0) if joint is None else joint

    def update(self, step: int, values: dict[str, Any]) -> None:
        """Moves the bar to `step` and shows the latest values."""
        if self.report:
            self.report(step)
        shown = {"loss": _short(values.get("loss"))}
        shown |= {name.removeprefix("loss/"): _short(v) for name, v in values.items() if name.startswith("loss/")}
        if "time/examples_per_second" in values:
            shown["ex/s"] = _short(values["time/examples_per_second"])
            shown["FLOP/s"] = f"{values['time/flops_per_second']:.2g}"
            if "time/share_of_peak" in values:
                shown["peak"] = f"{100 * values['time/share_of_peak']:.0f}%"
            shown["wait"] = f"{100 * values['time/data_wait_share']:.1f}%"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(self.before + step - self.bar.n)

    def say(self, text: str) -> None:
        """A line above the bar; silent where the bar is."""
        if self.show:
            say(text)

    def close(self) -> None:
        """Leaves the bar on the screen; a joint one goes on."""
        if self.joint is None:
            self.bar.close()


def _short(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"
