"""Contestants take turns: each lives in a process of its own and is asked for one measurement after the other.

Why processes: PyTorch's OpenMP threads spin for a while after a parallel region, so in one process its step could slow
the next of ours down, and either allocator would see the other's heap (one process was not tried). A contestant that
is not asked waits in a read of a pipe and costs nothing.

A machine with other users disturbs both, PyTorch far more (a spinning thread keeps a core from the one it waits for).
So each measurement also notes which share of the cores others had meanwhile (`/proc/stat` less the worker's own time),
and the report gives, beside medians and minima of all rounds, the ratio in the quiet ones, and that of processor time.
On a busy machine the fairest figure is processor time on one core (`--core 0`): one thread neither waits nor spins.
"""

import functools
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # contestants may share a GPU
RESULTS = Path(__file__).resolve().parent / "results"
Task = Callable[[], Any]
Build = Callable[..., dict[str, Task]]
QUIET = 0.1
"""Share of the cores that others may have in a round that is called quiet."""


def busy_seconds() -> float:
    """Seconds that all cores were busy since the machine started; 0 where /proc/stat does not exist."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, soft, steal = (int(n) for n in stat.read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def timed(task: Task) -> dict[str, float]:
    """Seconds of one call, its processor seconds, and the share of all cores that others had during it."""
    before, busy = resource.getrusage(resource.RUSAGE_SELF), busy_seconds()
    start = time.perf_counter()
    task()
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    own = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    others = (busy_seconds() - busy - own) / (seconds * (os.cpu_count() or 1))
    return {"seconds": seconds, "processor": own, "others": max(0.0, others)}


def _serve(pipe: Connection, build: Build, arguments: tuple[Any, ...]) -> None:
    """A worker: builds its tasks, then answers (task, timed?) until told None."""
    tasks = build(*arguments)
    pipe.send(sorted(tasks))
    while (request := pipe.recv()) is not None:
        name, clocked = request
        pipe.send(timed(tasks[name]) if clocked else tasks[name]())


class Contestant:
    """A worker process with named tasks. `build` is a top-level function that imports its framework itself.

    The worker builds while others are started; who asks for `tasks` waits for it.
    """

    def __init__(self, name: str, build: Build, *arguments: Any) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, build, arguments), daemon=True)
        self.process.start()
        theirs.close()

    @functools.cached_property
    def tasks(self) -> list[str]:
        """Their names, once they are built."""
        return self.pipe.recv()

    def result(self, task: str) -> Any:
        """What a task returns."""
        return self._ask(task, False)

    def time(self, task: str) -> dict[str, float]:
        """One timed call."""
        return self._ask(task, True)

    def begin(self, task: str) -> None:
        """Asks for a task without waiting for it, or for the worker to be built: `finish` does."""
        self.pipe.send((task, False))

    def finish(self) -> Any:
        """What the task that was begun first returns."""
        assert self.tasks
        return self.pipe.recv()

    def _ask(self, task: str, clocked: bool) -> Any:
        assert task in self.tasks, (self.name, task)
        self.pipe.send((task, clocked))
        return self.pipe.recv()

    def close(self) -> None:
        """Ends the process."""
        self.pipe.send(None)
        self.process.join()


class Worker:
    """A script in another environment that answers a line of JSON with a line of JSON; `state` is its first one."""

    def __init__(self, name: str, words: list[str], env: dict[str, str] | None = None) -> None:
        self.name = name
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, env=env, stdin=pipe, stdout=pipe, text=True)
        self.state = self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: the side {self.name!r} ended; its message is above.")
        return json.loads(line)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Its answer."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._reply()

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def warm(contestants: list[Contestant], tasks: tuple[str, ...]) -> None:
    """First calls, which compile: PyTorch's all at once, as its compiler is slow and times nothing; ours one by one,
    as XLA chooses kernels by timing them."""
    beside = [c for c in contestants if "torch" in c.name]
    for contestant in beside:
        for task in tasks:
            contestant.begin(task)
    begun = time.perf_counter()
    for contestant in contestants:
        for task in tasks:
            contestant.finish() if contestant in beside else contestant.result(task)
            print(f"{time.perf_counter() - begun:6.1f} s: {contestant.name} is ready for {task}", flush=True)


def alternate(
    contestants: list[Contestant], task: str, rounds: int, warm: int = 2, calls: int = 1
) -> list[dict[str, Any]]:
    """`rounds` rounds in which everyone has a turn, after `warm` that do not count; the first is the base.

    The last of a turn's `calls` is timed. A short one that follows another's long products finds clocks that these have
    lowered and caches without its data: a training step follows one of its own (by hand, on an EPYC: 0.9 of the time).
    Ratios are other / base: above 1 the base is faster. `quiet` is over the rounds in which others had at most QUIET
    of the cores during the base's turn and the contestant's; `processor` is of processor time (all threads).
    """
    taken: dict[str, list[dict[str, float]]] = {c.name: [] for c in contestants}
    for i in range(warm + rounds):
        for contestant in contestants:
            measured = [contestant.time(task) for _ in range(calls)][-1]
            if i >= warm:
                taken[contestant.name].append(measured)
    base = taken[contestants[0].name]
    return [_row(name, turns, base) for name, turns in taken.items()]


def _row(name: str, turns: list[dict[str, float]], base: list[dict[str, float]]) -> dict[str, Any]:
    def ratios(pairs: list[tuple[dict[str, float], dict[str, float]]], kind: str = "seconds") -> float | None:
        return round(statistics.median(a[kind] / b[kind] for a, b in pairs), 3) if pairs else None

    pairs = sorted(zip(turns, base, strict=True), key=lambda pair: max(pair[0]["others"], pair[1]["others"]))
    quiet = [pair for pair in pairs if max(pair[0]["others"], pair[1]["others"]) <= QUIET]
    seconds, base_seconds = [t["seconds"] for t in turns], [t["seconds"] for t in base]
    return {
        "name": name,
        "median_ms": round(1e3 * statistics.median(seconds), 1),
        "minimum_ms": round(1e3 * min(seconds), 2),
        "ratio_paired": ratios(pairs),
        "ratio_minima": round(min(seconds) / min(base_seconds), 3),
        "ratio_quiet": ratios(quiet),
        "quiet_rounds": len(quiet),
        "processor_ms": round(1e3 * statistics.median(t["processor"] for t in turns), 1),
        "ratio_processor": ratios(pairs, "processor"),
        "others": round(statistics.median(t["others"] for t in turns), 2),
        "all_ms": [round(1e3 * s, 1) for s in seconds],
        "all_others": [round(t["others"], 2) for t in turns],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text; ratios are contestant / first contestant."""
    lines = [f"{'':24s}{'median':>8s}{'minimum':>9s} ms   ratio: paired  minima  processor  quiet   others had"]
    for row in rows:
        quiet = "-" if row["ratio_quiet"] is None else f"{row['ratio_quiet']:.2f}"
        times = f"{row['name']:24s}{row['median_ms']:8.0f}{row['minimum_ms']:9.0f}"
        ratios = f"{row['ratio_paired']:16.2f}{row['ratio_minima']:8.2f}{row['ratio_processor']:11.2f}{quiet:>7s}"
        lines.append(f"{times}   {ratios}   {100 * row['others']:.0f} % ({row['quiet_rounds']} rounds quiet)")
    return "\n".join(lines)


def provenance() -> dict[str, Any]:
    """Commit ('+': changed since), versions and machine."""
    call = ["git", "-C", str(RESULTS.parent)]
    head = subprocess.run([*call, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    dirty = subprocess.run([*call, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return {
        "commit": head + ("+" if dirty else ""),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "torch")},
        "python": platform.python_version(),
        "cpu": models[0].split(":")[1].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "cores_used": len(os.sched_getaffinity(0)),
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def version(package: str) -> str | None:
    """Its version, or None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write(name: str, result: dict[str, Any]) -> None:
    """Writes results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(provenance() | result, indent=1) + "\n")
