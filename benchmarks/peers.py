"""Our DiT step and sampler beside those of other JAX libraries and of PyTorch, on a CPU, in one run.

    python3.12 -m venv peers && peers/bin/pip install dewml hackable-diffusion flaxdiff einops jaxtyping
    python3.11 -m venv torches && torches/bin/pip install torch diffusers numpy
    python benchmarks/peers.py --jax peers/bin/python --torch torches/bin/python [--tokens 64 256] [--heaps kept]

All JAX sides, ours too, run in the peers' environment, with its jax; float32, batch 8, 64 and 256 tokens, and the same
step around each network (`peers_sides.py`). Each side is a process, with the C library's heap kept or given back; they
take turns beside ours, as many as memory holds, and ratios are medians of paired rounds, other / ours with the same
setting: above 1 ours is faster. First calls compile; "first step warm" is that of a second process that finds the
compiled program in JAX's cache. Peak is the process's resident memory after steps and after samples. Writes
benchmarks/results/peers.json.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from peers_sides import PACKAGES
from turns import Worker, alternate, table, write

HERE = Path(__file__).resolve().parent
TORCH = ("torch", "diffusers")
OURS = "ours"
HEAPS = ("kept", "given")
TOGETHER = {64: 5, 256: 3}
"""Peers that are in memory beside ours at a time, by tokens."""
NAMED = ("jax", "jaxlib", "flax", "optax", "dewml", "flaxdiff", "hackable-diffusion", "torch", "diffusers")
"""Packages whose versions are written."""


class Side(Worker):
    """A library's process; `turns.alternate` asks it for one timed call after the other."""

    def __init__(self, side: str, python: str, tokens: int, heap: str, cache: str = "") -> None:
        more = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} if cache else {}
        env = os.environ | more | {
            "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}",
        }  # fmt: skip
        begun = time.perf_counter()
        super().__init__(f"{side}, heap {heap}", [python, str(HERE / "peers_sides.py"), side, str(tokens), heap], env)
        self.ready_seconds = time.perf_counter() - begun

    def time(self, task: str) -> dict[str, Any]:
        """One timed call."""
        return self.ask({"task": task})


def measure(pythons: dict[str, str], tokens: int, heaps: list[str], rounds: int) -> dict[str, Any]:
    """First calls, then rounds in turns, of every side that can run."""
    found: dict[str, Any] = {"tokens": tokens, "firsts": {}, "missing": {}, "step": {}, "sample": {}}
    peers = [name for name in PACKAGES if name != OURS]
    size = TOGETHER[tokens]
    for heap in heaps:
        rows: dict[str, list[Any]] = {"step": [], "sample": []}
        for first in range(0, len(peers), size):
            sides = begin([OURS, *peers[first : first + size]], pythons, tokens, heap, found)
            for task, count in (("step", rounds), ("sample", max(3, rounds // 2))):
                timed = alternate(sides, task, count, warm=1)  # pyright: ignore[reportArgumentType]
                rows[task] += timed[1:] if first else timed
                print(f"\n{task}, {tokens} tokens, heap {heap}\n{table(timed)}", flush=True)
            for side in sides:
                side.close()
        for task, timed in rows.items():
            found[task][heap] = timed
    return found


def begin(names: list[str], pythons: dict[str, str], tokens: int, heap: str, found: dict[str, Any]) -> list[Side]:
    """The sides that can run, after their first calls; `found` gets what these took, and what is missing."""
    sides: list[Side] = []
    for name in names:
        side = Side(name, pythons["torch" if name in TORCH else "jax"], tokens, heap)
        if not side.state["ready"]:
            found["missing"][name] = side.state["missing"]
            continue
        sides.append(side)
        step = side.time("step")
        steady = [side.time("step") for _ in range(2)]
        sample = side.time("sample")
        first = {"parameters": side.state["parameters"], "first_step": step["seconds"]}
        first |= {"peak_step_gib": steady[-1]["peak_gib"], "first_sample": sample["seconds"]}
        found["firsts"].setdefault(side.name, first | {"peak_gib": sample["peak_gib"]})
        print(f"{tokens} tokens: {side.name} {first} {sample['peak_gib']:.2f} GiB", flush=True)
    return sides


def warm_start(python: str, tokens: int) -> dict[str, float]:
    """Seconds of our process until its first step is done, without and with the compiled program at hand."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "warm"):
            side = Side("ours", python, tokens, "kept", cache)
            found[name] = {"first_step": side.time("step")["seconds"], "ready": side.ready_seconds}
            side.close()
    return found


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("--jax", required=True, help="python of the environment with the JAX peers")
    parser.add_argument("--torch", required=True, help="python of the environment with torch and diffusers")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256], choices=[64, 256])
    parser.add_argument("--heaps", nargs="+", default=list(HEAPS), choices=HEAPS)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    pythons = {"jax": asked.jax, "torch": asked.torch}
    script = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    installed = {}
    for name, python in pythons.items():
        words = subprocess.run([python, "-c", script], check=True, capture_output=True, text=True).stdout.split()
        installed[name] = sorted(word for word in words if word.split("==")[0].replace("_", "-") in NAMED)
    lengths = []
    for tokens in asked.tokens:
        lengths.append(measure(pythons, tokens, asked.heaps, asked.rounds) | {"start": warm_start(asked.jax, tokens)})
        write("peers", {"environments": installed, "rounds": asked.rounds, "lengths": lengths})


if __name__ == "__main__":
    main()
