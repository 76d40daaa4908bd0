"""Slow processes: percentiles of step times by process, exchanged through files of the run directory.

All processes finish a step together, so the time of a step does not show which process made the others wait. Each
process therefore also measures

    own     seconds of a step spent locally: waiting for data, moving them to devices
    still   seconds that a fixed piece of work of a millisecond took in a separate thread, once per second: a host that
            is starved, swapping or stopped takes longer

and writes them to RUN/logs/pace_INDEX.json with every logged step. Process 0 reads those files, writes them as
`time/by_process` and names a process that is slower than the others. No device is involved and no process waits. (A
slow accelerator inside a healthy host shows only in a profile.)
"""

import contextlib
import json
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

KEPT = 256
"""Steps whose times are kept."""
FACTOR = 3.0
"""A process is slow if it takes this multiple of the others' median ..."""
SHARE = 0.2
"""... and this takes more than this share of a step; or it stalled for `STILL` seconds."""
STILL = 2.0


class Pace:
    """The times of this process, and those reported by the others."""

    def __init__(self, folder: Path, index: int, count: int, say: Callable[[str], None]) -> None:
        self.folder, self.index, self.count, self.say = folder, index, count, say
        self.steps: deque[float] = deque(maxlen=KEPT)
        self.own: deque[float] = deque(maxlen=KEPT)
        self.still = 0.0
        self.named: set[int] = set()
        self.over = threading.Event()
        self.mark = time.perf_counter()
        if count > 1:
            with contextlib.suppress(OSError):  # of an earlier start
                (folder / f"pace_{index:03d}.json").unlink(missing_ok=True)
            threading.Thread(target=self._probe, name="pace", daemon=True).start()

    def _probe(self) -> None:
        work = np.ones((64, 64), np.float32)
        while not self.over.is_set():
            before = time.perf_counter()
            self.over.wait(1.0)
            for _ in range(20):
                work = np.tanh(work)
            self.still = max(self.still, time.perf_counter() - before - 1.0)

    def step(self, own: float) -> None:
        """A step was started; `own` seconds of it were local."""
        now = time.perf_counter()
        self.steps.append(now - self.mark)
        self.own.append(own)
        self.mark = now

    def report(self, step: int) -> dict[str, Any]:
        """Writes this process's times; in process 0 returns those of all, for a line of the metrics."""
        if self.count == 1 or not self.steps:
            return {}
        ours = {"step": step, "still": round(self.still, 4)} | {
            name: [round(float(q), 6) for q in np.percentile(list(times), (50, 95))]
            for name, times in (("step_seconds", self.steps), ("own_seconds", self.own))
        }
        self.still = 0.0
        with contextlib.suppress(OSError):
            self._leave(ours)
        if self.index:
            return {}
        known = {self.index: ours} | {i: told for i in range(1, self.count) if (told := self._told(i))}
        for index in slow(known):
            if index not in self.named:
                self.named.add(index)
                self.say(f"step {step}: process {index} is slow: {_describe(known, index)}")
        return {"time/by_process": {str(i): known[i] for i in sorted(known)}}

    def _leave(self, ours: dict[str, Any]) -> None:
        self.folder.mkdir(exist_ok=True)
        temporary = self.folder / f"pace_{self.index:03d}.tmp"
        temporary.write_text(json.dumps(ours))
        os.replace(temporary, self.folder / f"pace_{self.index:03d}.json")

    def _told(self, index: int) -> dict[str, Any] | None:
        try:
            told = json.loads((self.folder / f"pace_{index:03d}.json").read_bytes())
            numbers = (told["still"], *told["own_seconds"], *told["step_seconds"])
            return told if all(isinstance(n, float | int) for n in numbers) else None
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None

    def close(self) -> None:
        """Ends the probe."""
        self.over.set()


def slow(known: dict[int, dict[str, Any]]) -> list[int]:
    """The processes that are slower than the others. `known`: their reports (`Pace.report`)."""
    found = []
    for index, told in known.items():
        others = [other["own_seconds"][0] for i, other in known.items() if i != index]
        if not others:
            continue
        own, usual = told["own_seconds"][0], statistics.median(others)
        busy = own > FACTOR * usual and own > SHARE * told["step_seconds"][0]
        stood = told["still"] > STILL and told["still"] > FACTOR * statistics.median(
            other["still"] for i, other in known.items() if i != index
        )
        if busy or stood:
            found.append(index)
    return found


def _describe(known: dict[int, dict[str, Any]], index: int) -> str:
    told = known[index]
    others = statistics.median(other["own_seconds"][0] for i, other in known.items() if i != index)
    return (
        f"{told['own_seconds'][0]:.3g} s of its own per step (95 %: {told['own_seconds'][1]:.3g}), the others "
        f"{others:.3g}; it stalled for up to {told['still']:.3g} s."
    )
