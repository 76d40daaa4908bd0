"""How fast data is read and prepared, beside torch's DataLoader and the `datasets` library, in one run.

    python3.11 -m venv peers && peers/bin/pip install torch torchvision datasets pillow
    python benchmarks/data.py --peers peers/bin/python [--rounds 9]

    photos     2,000 JPEGs of 400 to 800 pixels in a folder: decode, centre crop to 256 as ADM does it, mirror
    records    the same pictures of 256 pixels: ours in ArrayRecord files, those of `datasets` in its Arrow files,
               torch's in a folder
    waits      the share of a training step that waits for data, in short runs of recipes

Batches of 32, two threads or two workers. Every side is a process; they take turns, and ratios are medians of paired
rounds: other / ours, above 1 ours is faster. A side that cannot run is named with what is not installed. The outputs
are compared first. Writes benchmarks/results/data.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from data_sides import AHEAD, BATCH, SIDES, SIZE, centre_crop, serve
from jaxtyping import Float
from PIL import Image as Pillow
from turns import Worker, alternate, table, write

import unified_jax as uj
from unified_jax.cli.heap import keep_heap
from unified_jax.data.pipeline import Pipeline
from unified_jax.modalities.fitting import Draw
from unified_jax.modalities.reading import File

HERE = Path(__file__).resolve().parent
OURS = "ours"
ROUND = {"photos": 24, "records": 84}
"""Batches of a round: whole turns of two workers, and of our three threads."""
CHECKED = 12
"""Pictures that are compared, as they are and mirrored."""
RECIPES = ("quickstart", "images")


def texture(rng: np.random.Generator, side: int) -> Float[np.ndarray, "s s 3"]:
    """Smooth noise in colour; its amplitude falls with the frequency as in photographs."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    slope, planes = rng.uniform(1.2, 1.5), []
    for _ in range(3):
        shape = (side, side // 2 + 1)
        plane = np.fft.irfft2((rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / frequency**slope)
        planes.append(plane / plane.std())
    grey, red, blue = planes
    return np.stack([grey + 0.3 * red, grey, grey + 0.3 * blue], axis=-1) * 48 + 118


def make_pictures(folder: Path, count: int) -> None:
    """folder/photos and folder/records: the photos, and their centre crops."""
    rng = np.random.default_rng(0)
    bases = [np.clip(texture(rng, 1024), 0, 255).astype(np.uint8) for _ in range(16)]
    for task in ROUND:
        (folder / task).mkdir(parents=True)
    for i in range(count):
        height, width = rng.integers(400, 801, 2)
        top, left = rng.integers(0, 1024 - height), rng.integers(0, 1024 - width)
        photo = bases[rng.integers(len(bases))][top : top + height, left : left + width, rng.permutation(3)]
        picture = Pillow.fromarray(np.ascontiguousarray(photo))
        picture.save(folder / "photos" / f"{i:05d}.jpg", quality=90)
        centre_crop(picture).save(folder / "records" / f"{i:05d}.jpg", quality=95)


def our_side(task: str, folder: str) -> None:
    """Our batches as a training run makes them; begins as train.py does."""
    keep_heap()
    image = uj.Image(SIZE, SIZE, 3, fit="center_crop", flip=True)
    data = uj.Files(folder) if task == "photos" else uj.Records(folder + ".built")
    pipeline = Pipeline(data, "train", (image,), BATCH, seed=0, vary=True)
    (_, _, source), *_ = pipeline.parts
    places: dict[str, int] = {}

    def pick(name: str, mirrored: bool) -> np.ndarray:
        if task == "photos":
            file = File(name, Path(folder, name))
        else:
            places.update({} if places else {source[i]["image"].name: i for i in range(len(source))})
            file = source[places[name]]["image"]
        return image.prepare(image.fitted(file, Draw(0.0 if mirrored else 0.9, 0.0, 0.0, 0.0, 0.0)))

    serve(pipeline.batches(0, buffer=AHEAD), pick)


class Side(Worker):
    """A side in a process of its own; see `data_sides`."""

    def __init__(self, name: str, python: str, task: str, folder: Path) -> None:
        script = [str(HERE / "data.py"), "--side"] if name == OURS else [str(HERE / "data_sides.py"), name]
        super().__init__(name, [python, *script, task, str(folder / task)])

    def time(self, task: str) -> dict[str, Any]:
        """One round; `turns.alternate` calls it."""
        return self.ask({"round": ROUND[task]})


def measure(task: str, folder: Path, peers: str, rounds: int) -> dict[str, Any]:
    """All sides of a task: the largest difference of outputs from ours, in grey levels, and the times."""
    sides = [Side(OURS, sys.executable, task, folder)]
    sides += [Side(name, peers, task, folder) for name in SIDES]
    absent = {side.name: side.state["missing"] for side in sides if not side.state["ready"]}
    sides = [side for side in sides if side.state["ready"]]
    names = sorted(path.name for path in (folder / task).glob("*.jpg"))[:: max(1, 2000 // CHECKED)][:CHECKED]
    made = {}
    for side in sides:
        to = folder / "pictures.npy"
        side.ask({"check": [[name, mirrored] for name in names for mirrored in (False, True)], "to": str(to)})
        made[side.name] = np.load(to).astype(int)
    differences = {name: int(np.abs(value - made[OURS]).max()) for name, value in made.items()}
    rows = alternate(sides, task, rounds, warm=1)  # pyright: ignore[reportArgumentType]
    for row in rows:
        row["pictures_per_second"] = round(1e3 * BATCH * ROUND[task] / row["median_ms"], 1)
        row["largest_difference"] = differences[row["name"]]
    for side in sides:
        side.close()
    print(f"{task}\n{table(rows)}\nlargest difference: {differences}; not installed: {absent}", flush=True)
    return {"batches_per_round": ROUND[task], "rows": rows, "not_installed": absent}


def waits(recipe: str, runs: Path, folder: Path, steps: int) -> dict[str, Any]:
    """A short run: the share of its time that waits for data, after the first two lines, which hold compilation."""
    run = runs / recipe
    off = ("--evaluate", "0", "--preview.every", "0", "--validation.every", "0")
    path = ("--data.path", str(folder / "photos")) if recipe == "images" else ()
    command = [sys.executable, "-m", "unified_jax.cli.train", recipe, "--run-dir", str(run), *path, *off]
    subprocess.run([*command, "--steps", str(steps), "--log-every", "10"], check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "time/data_wait_share" in line][2:]
    weights = [line["time/step_seconds"] for line in lines]
    share = float(np.average([line["time/data_wait_share"] for line in lines], weights=weights))
    found = {"recipe": recipe, "steps": steps, "share": round(share, 4), "step_seconds": round(np.mean(weights), 3)}
    print(f"{recipe}: {100 * share:.2f} % of a step waits for data", flush=True)
    return found


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", default=sys.executable, help="Python of an environment with the peers")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=2000, help="pictures")
    parser.add_argument("--steps", type=int, default=60, help="of the runs that measure waits; 0: none")
    parser.add_argument("--folder", help="keep the pictures here, or use those that are there")
    parser.add_argument("--side", nargs=2, metavar=("TASK", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        our_side(*options.side)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        if not (folder / "records.built").exists():
            make_pictures(folder, options.count)
            build = [sys.executable, "-m", "unified_jax.cli.data", "build", str(folder / "records"), "--to"]
            subprocess.run([*build, str(folder / "records.built")], check=True, stdout=subprocess.DEVNULL)
        found = {task: measure(task, folder, options.peers, options.rounds) for task in ROUND}
        shares = [waits(recipe, Path(temporary), folder, options.steps) for recipe in RECIPES if options.steps]
    write("data", {"pictures": options.count, "batch": BATCH, **found, "waits": shares})


if __name__ == "__main__":
    main()
