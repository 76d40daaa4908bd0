"""How much memory FID and its relatives take at 50,000 images, features of Inception's widths on both sides.

    python benchmarks/distance_memory.py [--count 50000] [--pr]

Each group of metrics runs in a process of its own over features on disk, as `evaluate --against` keeps them (noise of
the widths 2048, 2023 and 1008: memory does not depend on the values), and tells its peak of resident memory. Precision
and recall compare each image with each, about fifteen minutes of two cores at 50,000: only with --pr. Writes
benchmarks/results/distance_memory.json.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from turns import write

from unified_jax.evaluation.comparison import Measures, compare
from unified_jax.evaluation.feature_sets import Vectors
from unified_jax.runs.extraction import SHARD, Shards, shard_path

WIDTHS = {"pool": 2048, "spatial": 2023, "logits": 1008}
GROUPS = {
    "FID": (("frechet",), False),
    "FID with its interval": (("frechet",), True),
    "sFID": (("spatial",), False),
    "KID and Inception score, with intervals": (("kernel", "score"), True),
    "precision and recall": (("precision_recall",), True),
}


def make(folder: Path, count: int) -> None:
    """Two sets of features, in shards."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir()
        for at in range(0, count, SHARD):
            n = min(SHARD, count - at)
            arrays = {kind: rng.normal(size=(n, width)).astype(np.float32) for kind, width in WIDTHS.items()}
            np.savez(shard_path(folder / name, at // SHARD), **arrays)  # pyright: ignore[reportArgumentType]


def measure(folder: Path, count: int, group: str) -> dict[str, float]:
    """Peak of this process in GiB, before and after, and seconds."""
    sets = [Vectors(name, Shards(folder / name, tuple(WIDTHS), count)) for name in ("a", "b")]
    metrics, intervals = GROUPS[group]
    before, start = peak(), time.perf_counter()
    rows = compare(*sets, "inception (fid) adm", Measures(metrics, intervals=intervals))
    assert all(np.isfinite(row["value"]) for row in rows)
    return {"peak_gib": peak(), "import_gib": before, "seconds": time.perf_counter() - start}


def peak() -> float:
    """Peak of resident memory in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Runs the groups one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--pr", action="store_true")
    parser.add_argument("--group", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.group:
        print(json.dumps(measure(Path(asked.folder), asked.count, asked.group)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), asked.count)
        for group in GROUPS:
            if group == "precision and recall" and not asked.pr:
                continue
            words = [sys.executable, __file__, "--group", group, "--folder", folder, "--count", str(asked.count)]
            out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            rows.append({"group": group, "count": asked.count, **json.loads(out.splitlines()[-1])})
            print(rows[-1], flush=True)
    write("distance_memory", {"rows": rows})


if __name__ == "__main__":
    main()
