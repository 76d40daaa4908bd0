"""What a run writes while it runs: `metrics.jsonl`, TensorBoard events, `non_finite.jsonl`, and the progress bar.

The step's metrics stay on the device until later steps have been started, so that writing never waits for the device.
Lines hold the numbers that equal runs share; what may differ between them (rates, waits) is under `time/`.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from unified_jax.data.pipeline import HostBatch
from unified_jax.errors import RunError

LAG = 2
"""Steps in flight before the metrics of the oldest are read."""


class Pending(NamedTuple):
    """A step that was started and not yet read."""

    step: int
    metrics: dict[str, Any]
    batch: HostBatch


class Clock:
    """Wall time since the last reading, and how much of it was spent waiting for data."""

    def __init__(self) -> None:
        self.start = self.mark = time.perf_counter()
        self.waited = self.total_waited = 0.0
        self.steps = 0

    def wait(self, seconds: float) -> None:
        """Counts a wait for data, and a step."""
        self.waited += seconds
        self.total_waited += seconds
        self.steps += 1

    def read(self, batch_size: int, flops: float, peak: float | None) -> dict[str, float]:
        """The `time/*` numbers since the last reading."""
        now = time.perf_counter()
        seconds = max(now - self.mark, 1e-9)
        step_seconds = seconds / max(self.steps, 1)
        found = {
            "time/seconds": now - self.start,
            "time/step_seconds": step_seconds,
            "time/examples_per_second": batch_size / step_seconds,
            "time/flops_per_second": flops / step_seconds,
            "time/data_wait_share": self.waited / seconds,
        }
        if peak:
            found["time/share_of_peak"] = flops / step_seconds / peak
        self.mark, self.waited, self.steps = now, 0.0, 0
        return found


class MetricsWriter:
    """Appends to the files of a run directory. `resume_step` cuts what a resumed run will write again."""

    def __init__(self, run_dir: Path, resume_step: int) -> None:
        from tensorboardX import SummaryWriter

        self.path, self.skipped_path = run_dir / "metrics.jsonl", run_dir / "non_finite.jsonl"
        for path in (self.path, self.skipped_path):
            cut_lines(path, resume_step)
        self.file = self.path.open("a")
        self.board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line and the same scalars as TensorBoard events. Raises RunError where the disk refuses."""
        try:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
            for name, value in values.items():
                if isinstance(value, float):
                    self.board.add_scalar(name, value, step)
                elif name == "loss_by_time":
                    for i, part in enumerate(value):
                        if part is not None:
                            self.board.add_scalar(f"loss_by_time/{i:02d}", part, step)
        except OSError as error:
            raise RunError(f"{self.path} cannot be written ({error}); the last checkpoint is intact.") from error

    def write_non_finite(self, step: int, batch: HostBatch, values: dict[str, Any]) -> None:
        """The step whose loss or gradient was not finite: its index, slots and example ids."""
        record = {"step": step, "slots": list(range(len(batch.ids))), "ids": batch.ids.tolist(), **values}
        with self.skipped_path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """Flushes and closes."""
        self.file.close()
        self.board.close()


def cut_lines(path: Path, last_step: int) -> None:
    """Keeps the whole lines of steps <= last_step; a torn last line goes too. Atomic."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if not line.endswith("\n") or json.loads(line)["step"] > last_step:
                break
        except (json.JSONDecodeError, KeyError, TypeError):
            break
        kept.append(line)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All lines of a metrics file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def to_host(metrics: dict[str, Any]) -> dict[str, Any]:
    """Device scalars to floats, vectors to lists; what is not finite becomes None (JSON has no NaN)."""

    def number(value: Any) -> float | None:
        return float(value) if math.isfinite(value) else None

    host = jax.device_get(metrics)
    return {
        name: number(value) if np.ndim(value) == 0 else [number(v) for v in np.asarray(value)]
        for name, value in host.items()
    }


class Progress:
    """The bar: step, rate and ETA by tqdm, and the numbers one watches. Silent off the main process."""

    def __init__(self, steps: int, start: int, show: bool) -> None:
        tty = sys.stderr.isatty()
        self.bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            disable=not show,
            dynamic_ncols=True,
            mininterval=0.5 if tty else 15,
        )

    def update(self, step: int, values: dict[str, Any]) -> None:
        """Moves the bar to `step` and shows the latest values."""
        shown = {"loss": _short(values.get("loss"))}
        shown |= {name.removeprefix("loss/"): _short(v) for name, v in values.items() if name.startswith("loss/")}
        if "time/examples_per_second" in values:
            shown["ex/s"] = _short(values["time/examples_per_second"])
            shown["FLOP/s"] = f"{values['time/flops_per_second']:.2g}"
            if "time/share_of_peak" in values:
                shown["peak"] = f"{100 * values['time/share_of_peak']:.0f}%"
            shown["wait"] = f"{100 * values['time/data_wait_share']:.1f}%"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(step - self.bar.n)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leaves the bar on the screen."""
        self.bar.close()


def _short(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"
