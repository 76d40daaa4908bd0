"""How cost grows: steps, samples, decoding, data and start-up against their sizes, with fitted slopes.

    python benchmarks/growth.py [--only tokens width ...] [--rounds 5] [--longest 4096] [--tiny]

Each axis times one thing at sizes that double, on whatever device is there: a training step against tokens, width,
batch and the number of modalities (time and memory); guided sampling against steps and batch; decoding with its cache
against length; reading shuffled data against the record count; import, first step cold and warm (with the compilation
cache filled), no axis. The slope is fitted by least squares through the logarithms, beside that of the counted FLOPs
(`training/flops.py`) at the same sizes: cost grows as it should where slope <= that + 0.1. Where nothing is counted
(data) the slope that is wanted is written with the axis.

A point is the minimum of its rounds. The first, small sizes are mostly fixed cost, which flattens a slope: it is fitted
to the upper half of the sizes too, and the steeper of both counts.

Writes benchmarks/results/growth.json after each axis (those of other axes are kept), then docs/figures/growth.png and
the table of docs/scaling.md. `--tiny` tries it, writes build/growth.json and says "not measured".
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import growth_points as points
import numpy as np
from growth_points import Point
from turns import RESULTS, provenance

ALLOWED = 0.1
"""How much steeper than the FLOPs a cost may grow."""
ROOT = RESULTS.parents[1]


@dataclass(frozen=True)
class Axis:
    """One thing that grows."""

    what: str
    sizes: tuple[int, ...]
    tiny: tuple[int, ...]
    build: Callable[[int], Point]
    wanted: float | None = None
    """The slope where no FLOPs are counted."""


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Of the line through (log size, log cost), or through their upper half if that is steeper."""
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(costs, float))
    half = len(x) // 2 if len(x) >= 4 else 0
    return max(float(np.polyfit(x[at:], y[at:], 1)[0]) for at in {0, half})


def judged(axis: Axis, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows with their slopes and whether they grow as wanted."""
    sizes = [row["size"] for row in rows]
    found: dict[str, Any] = {"what": axis.what, "rows": rows}
    flops = [row["flops"] for row in rows]
    found["wanted"] = axis.wanted if None in flops else round(slope(sizes, flops), 3)
    for cost in ("seconds", "memory"):
        values = [row[cost] for row in rows]
        found[f"slope_{cost}"] = None if None in values or min(values) <= 0 else round(slope(sizes, values), 3)
    found["holds"] = found["slope_seconds"] <= found["wanted"] + ALLOWED
    return found


def measure(axis: Axis, sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Builds and times every size."""
    rows = []
    for size in sizes:
        point = axis.build(size)
        point.run()
        seconds = []
        for _ in range(rounds):
            begun = time.perf_counter()
            point.run()
            seconds.append(time.perf_counter() - begun)
        rows.append({"size": size, "seconds": min(seconds), "flops": point.flops, "memory": point.memory})
        print(f"{axis.what}, {size}: {1e3 * min(seconds):.1f} ms", flush=True)
    return judged(axis, rows)


AXES = {
    "tokens": Axis("training step, tokens", (64, 256, 1024, 4096, 16384), (16, 64), points.by_tokens),
    "width": Axis("training step, width", (128, 256, 512, 1024), (64, 128), points.by_width),
    "batch": Axis("training step, batch", (1, 2, 4, 8, 16, 32, 64), (1, 2), points.by_batch),
    "modalities": Axis("training step, modalities", (1, 2, 4, 8), (1, 2), points.by_modalities),
    "steps": Axis("sampling, steps", (5, 10, 20, 40, 80), (1, 2), functools.partial(points.sample_of, batch=4)),
    "samples": Axis("sampling, batch", (1, 2, 4, 8, 16, 32), (1, 2), functools.partial(points.sample_of, 10)),
    "length": Axis("decoding with a cache, tokens", (64, 128, 256, 512, 1024), (16, 32), points.by_length),
    "records": Axis("reading, records", (10_000, 100_000, 1_000_000), (1000, 2000), points.by_records, 0.0),
}


COLD = """
import time; begun = time.perf_counter()
import unified_jax as uj
uj.DiT, uj.Diffusion
imported = time.perf_counter() - begun
import growth_points as points
model = points.dit()
point = points.step_of(model, points.examples_of(model, 4))
point.run()
import json; print(json.dumps({"import": round(imported, 2), "first_step": round(time.perf_counter() - begun, 2)}))
"""


def start_up() -> dict[str, Any]:
    """Seconds until the library is imported and the first step is done, in new processes: cold, then warm.

    Warm finds the compiled programs in the cache that the cold one filled. Opening the device counts.
    """
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]), "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }  # fmt: skip
        for name in ("cold", "warm"):
            ended = subprocess.run([sys.executable, "-c", COLD], env=env, stdout=subprocess.PIPE, text=True, check=True)
            found[name] = json.loads(ended.stdout.strip().split("\n")[-1])
            print(f"start-up, {name}: {found[name]}", flush=True)
    return found


def main() -> None:
    """Measures, writes, fills the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=[*AXES, "start_up"], default=[*AXES, "start_up"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--longest", type=int, help="tokens at most; default 4,096 on a CPU, else 16,384")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    import jax

    longest = options.longest or (4096 if jax.default_backend() == "cpu" else 16384)
    path = ROOT / "build/growth.json" if options.tiny else RESULTS / "growth.json"
    path.parent.mkdir(exist_ok=True)
    held = json.loads(path.read_text()) if path.exists() else {"axes": {}}
    for name in options.only:
        if name == "start_up":
            held["start_up"] = start_up()
        else:
            axis = AXES[name]
            sizes = axis.tiny if options.tiny else tuple(n for n in axis.sizes if name != "tokens" or n <= longest)
            held["axes"][name] = provenance() | measure(axis, sizes, 2 if options.tiny else options.rounds)
        held["device"] = "not measured: tiny sizes" if options.tiny else jax.devices()[0].device_kind
        path.write_text(json.dumps(held, indent=1) + "\n")
    if not options.tiny:
        import pages

        pages.fill()
        pages.plot_growth()


if __name__ == "__main__":
    main()
