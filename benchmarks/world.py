"""How often the world's readers are right, with and without noise, and how many scenes a second one core renders.

    python benchmarks/world.py [--scenes 2000] [--resolution 32]

A reading counts if every attribute that the rendering shows, and the number of objects, is found (one rendering: one
count). Noise is Gaussian: for pictures, films and depth its deviation on the [-1, 1] scale, for sounds, points and
paths in their own units. The rates are of one process on one core: every field alone, all fields of a scene, and all
fields from a cache (`cli.data build`). Writes benchmarks/results/world.json.
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from turns import write

from unified_jax.data.world import World
from unified_jax.data.world.cache import build
from unified_jax.data.world.read import Reading, read_image, read_video
from unified_jax.data.world.read_action import read_action
from unified_jax.data.world.read_solid import read_depth, read_points
from unified_jax.data.world.read_sound import read_audio
from unified_jax.data.world.scene import ATTRIBUTES, Scene
from unified_jax.evaluation.statistics import wilson_interval

CHUNK = 50
PIXELS = (0.0, 0.1)
SHOWN: dict[str, tuple[str, ...]] = {
    "image": ("shape", "colour", "size", "place"),
    "video": ("shape", "colour", "size", "place", "motion"),
    "depth": ("shape", "size", "place", "motion"),
    "audio": ("shape", "colour", "size"),
    "points": ("shape", "colour", "size", "place"),
    "action": ("place", "motion"),
}
NOISE = {
    **dict.fromkeys(("image", "video", "depth"), PIXELS),
    **{"audio": (0.0, 0.02), "points": (0.0, 0.005), "action": (0.0, 0.01)},
}


def noisy(name: str, value: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """The renderings under noise; pictures and films on the [-1, 1] scale, where their readers take floats."""
    if name in ("image", "video"):
        value = value.astype(np.float32) / 127.5 - 1
        return (value + sigma * rng.standard_normal(value.shape)).astype(np.float32) if sigma else value
    return value + (sigma / 2 if name == "depth" else sigma) * rng.standard_normal(value.shape) if sigma else value


READERS: dict[str, Callable[[np.ndarray], Reading]] = {
    **{"image": read_image, "video": read_video, "depth": read_depth},
    **{"audio": read_audio, "points": read_points, "action": read_action},
}


def right(name: str, reading: Reading, scenes: list[Scene]) -> np.ndarray:
    """Whether each scene was read whole; a path leads to the first object alone."""
    objects = 1 if name == "action" else 2
    counts = np.asarray([min(objects, len(scene.objects)) for scene in scenes])
    good = reading.count == counts
    for attribute, values in ATTRIBUTES:
        if attribute in SHOWN[name]:
            for i in range(objects):
                want = [getattr(s.objects[i], attribute) if i < len(s.objects) else len(values) for s in scenes]
                good = good & (getattr(reading, attribute)[:, i] == np.asarray(want))
    return good


def accuracy(world: World, name: str, sigma: float, count: int) -> dict[str, Any]:
    """One row."""
    source, rng, hits = world.source("test", (name,)), np.random.default_rng(0), []
    for first in tqdm(range(0, count, CHUNK), desc=f"{name} {sigma}", unit="x50", leave=False):
        ids = range(first, min(first + CHUNK, count))
        rendered = np.stack([np.asarray(source[i][name]) for i in ids])
        reading = READERS[name](noisy(name, rendered, sigma, rng))
        hits.append(right(name, reading, [source.scene(i) for i in ids]))
    value = float(np.concatenate(hits).mean())
    low, high = wilson_interval(value, count)
    print(f"{name:8s} noise {sigma:<6g} {value:.4f} [{low:.4f}, {high:.4f}]", flush=True)
    return {"rendering": name, "noise": sigma, "n": count, "value": value, "low": low, "high": high}


def rates(world: World, folder: Path, count: int) -> dict[str, float]:
    """Scenes a second: the median of five turns."""

    def rate(source: Any) -> float:
        seconds = []
        for turn in range(5):
            before = time.perf_counter()
            for i in range(turn * count, (turn + 1) * count):
                source[i]
            seconds.append(time.perf_counter() - before)
        return round(count / float(np.median(seconds)), 1)

    found = {name: rate(world.source("test", (name,))) for name in (*SHOWN, "caption")}
    found["all fields"] = rate(world.source("test"))
    with contextlib.redirect_stderr(io.StringIO()):
        build(world, folder, {"train": 1, "test": 5 * count, "held_out": 1}, lambda done: None)
    cached = World(resolution=world.resolution, cache=str(folder)).source("test")
    found["all fields, cached"] = rate(cached)
    for name, value in found.items():
        print(f"{name:20s} {value:8.1f} scenes/s")
    return found


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--resolution", type=int, default=32)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    world = World(resolution=options.resolution)
    rows = [accuracy(world, name, sigma, options.scenes) for name in SHOWN for sigma in NOISE[name]]
    with tempfile.TemporaryDirectory() as folder:
        speeds = rates(world, Path(folder), 100)
    write("world", {"resolution": options.resolution, "readers": rows, "scenes_per_second": speeds})


if __name__ == "__main__":
    main()
