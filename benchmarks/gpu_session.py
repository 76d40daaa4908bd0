"""One session on a borrowed Hopper GPU: parts in order of worth, within nine minutes.

    python benchmarks/gpu_session.py [--minutes 9] [--parts tests dit_xl_256 ...] [--out FOLDER] [--tiny]

A part is a process of its own (`gpu_session_parts.py`) and its file, OUT/PART.json, is written as soon as it ends. A
part is skipped where the time left is less than it took last time (`seconds` in that file, from the same kind of
device; before its first time, the guess of `PARTS`). XLA is watched: a compilation that takes longer than a minute is
abandoned with its part, and the file says which. The log of a part lies beside its file.

The machine needs jax 0.11, flax, optax, torch and NumPy; nothing comes from the network. What else is imported (pytest,
jaxtyping, beartype, ...) are pure-Python wheels in build/wheels (`make gpu-wheels`), which are put on the path.

Without a GPU, or with `--tiny`, every part runs at tiny sizes to try the script, and its file says "not measured".
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 60.0
"""Seconds after which a compilation is abandoned."""
BEGUN = re.compile(r"Compiling (\S+) with global shapes")
DONE = re.compile(r"Finished XLA compilation of (\S+) in")


@dataclass(frozen=True)
class Part:
    """A process that writes its own result."""

    name: str
    guess: float
    """Seconds it takes, before it has run once."""
    goal: str = ""
    env: dict[str, str] = field(default_factory=dict)


TESTS = {"TEST_PLATFORMS": "cuda,cpu"}
PARTS = (
    Part("tests_kernels", 75, "all pass", TESTS),
    Part("dit_xl_256", 100, "627 images/s, aim 696; 1.0 x PyTorch's step, aim 1.2"),
    Part("dit_xl_1024", 90, "46 % of the data sheet's rate, aim 50 %"),
    Part("transfusion_4096", 60, "none stated"),
    Part("kernels_transfusion_4096", 45, "2 x cuDNN with a bias, 1.0 x FlexAttention"),
    Part("kernels_dit_xl_256", 45, "1.05 x cuDNN forward, 1.0 x with gradients"),
    Part("kernels_dit_xl_1024", 45, "1.0 x cuDNN, forward and with gradients"),
    Part("bits", 45, "two runs equal to the bit, autotuning pinned"),
    Part("beside_cpu", 40, "losses of a CPU within 2e-5, samples within 1e-4", {"JAX_PLATFORMS": "cuda,cpu"}),
    Part("quickstart", 60, "the recipe's accuracy"),
    Part("tests_networks", 120, "all pass", TESTS),
)
"""In order of worth."""


class Compilations:
    """Which programs XLA is compiling, from the lines that it logs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.begun = clock, dict[str, float]()

    def read(self, line: str) -> None:
        """Takes one line of a log."""
        if found := BEGUN.search(line):
            self.begun[found[1]] = self.clock()
        if found := DONE.search(line):
            self.begun.pop(found[1], None)

    def slow(self, longest: float) -> str | None:
        """A program whose compilation takes longer than that, or None."""
        return next((name for name, at in self.begun.items() if self.clock() - at > longest), None)


def watched(command: Sequence[str], env: dict[str, str], log: Path, seconds: float, longest: float) -> str | None:
    """Runs a command; None if it ended well, else why not. It ends with all processes that it started."""
    compilations = Compilations(time.monotonic)
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

        def read() -> None:
            for line in process.stdout or ():
                compilations.read(line)
                out.write(line)
                out.flush()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        why, end = None, time.monotonic() + seconds
        while why is None and process.poll() is None:
            time.sleep(0.05)
            if slow := compilations.slow(longest):
                why = f"the compilation of {slow} took longer than {longest:.0f} s"
            elif time.monotonic() > end:
                why = "the session's time was over"
        if why is not None:
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        reader.join(timeout=5)
        assert process.stdout is not None
        process.stdout.close()
    return why or (None if code == 0 else f"it ended with code {code}: see {log.name}")


def last(path: Path, device: str) -> float | None:
    """Seconds that a part took when it last ended well on this kind of device."""
    if not path.exists():
        return None
    held = json.loads(path.read_text())
    return held["seconds"] if held.get("device") == device and held.get("status") in ("measured", "tried") else None


Run = Callable[[Part, Path, float], str | None]
"""Runs a part, which writes its result to the path, within some seconds; returns why it did not."""


def session(parts: Sequence[Part], run: Run, out: Path, device: str, seconds: float, tiny: bool) -> dict[str, Any]:
    """Runs the parts in order; returns {part: what its file says without its result}."""
    begun, found = time.monotonic(), {}
    for part in parts:
        path = out / f"{part.name}.json"
        left, needed = seconds - (time.monotonic() - begun), last(path, device) or (0 if tiny else part.guess)
        if left <= 0 or left < needed:
            found[part.name] = {"status": "skipped", "why": f"{left:.0f} s were left, it takes {needed:.0f} s"}
            print(f"{part.name}: skipped, {found[part.name]['why']}", flush=True)
            continue
        fresh, at = out / f"{part.name}.new", time.monotonic()
        fresh.unlink(missing_ok=True)
        why = run(part, fresh, left)
        facts: dict[str, Any] = {"device": device, "seconds": round(time.monotonic() - at, 1)}
        result = json.loads(fresh.read_text()) if fresh.exists() else None
        if why is not None:
            facts = {"status": "abandoned" if "took longer" in why or "time was over" in why else "failed",
                     "why": why} | facts  # fmt: skip
        elif tiny:
            facts = {"status": "tried", "why": "not measured: tiny sizes, to try the script"} | facts
        else:
            facts = {"status": "measured"} | facts
        keep = last(path, device) is not None and why is not None  # a good result is not lost to a bad run
        if not keep:
            path.write_text(json.dumps(facts | {"result": result}, indent=1) + "\n")
        fresh.unlink(missing_ok=True)
        found[part.name] = facts
        print(f"{part.name}: {facts['status']}, {facts['seconds']} s {facts.get('why', '')}", flush=True)
    return found


def begin(out: Path, longest: float, tiny: bool) -> Run:
    """How parts are run."""
    site = ROOT / "build/wheels/site"
    for wheel in (ROOT / "build/wheels").glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(site)
    paths = [str(ROOT), str(site), os.environ.get("PYTHONPATH", "")]

    def run(part: Part, path: Path, seconds: float) -> str | None:
        env = os.environ | part.env | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)), "JAX_LOG_COMPILES": "1", "PYTHONUNBUFFERED": "1",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }  # fmt: skip
        if tiny:
            env["JAX_PLATFORMS"] = "cpu"
        command = [sys.executable, "benchmarks/gpu_session_parts.py", part.name, str(path), *["--tiny"] * tiny]
        return watched(command, env, out / f"{part.name}.log", seconds, longest)

    return run


def gpu() -> str | None:
    """The name of the GPU, asked in a process of its own, or None."""
    ask = "import jax; d = jax.devices()[0]; print(d.device_kind if d.platform == 'gpu' else '')"
    found = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True).stdout.strip().split("\n")
    return found[-1] or None


def main() -> None:
    """Runs the session."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS])
    parser.add_argument(
        "--out", type=Path, help="default: benchmarks/results/gpu_session, with --tiny build/gpu_session"
    )
    parser.add_argument("--longest", type=float, default=LONGEST, help="seconds that a compilation may take")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    begun = time.monotonic()
    device = None if options.tiny else gpu()
    tiny = device is None
    if tiny and not options.tiny:
        print("not measured: no GPU here. The parts run at tiny sizes, to try the script.", flush=True)
    out = options.out or ROOT / ("build/gpu_session" if tiny else "benchmarks/results/gpu_session")
    out.mkdir(parents=True, exist_ok=True)
    parts = [part for part in PARTS if not options.parts or part.name in options.parts]
    left = 60 * options.minutes - (time.monotonic() - begun)
    found = session(parts, begin(out.resolve(), options.longest, tiny), out.resolve(), device or "cpu", left, tiny)
    (out / "session.json").write_text(json.dumps({"device": device, "parts": found}, indent=1) + "\n")
    if any(facts["status"] == "failed" for facts in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
