"""Do distances between sets see what people see? Two halves of real pictures, and five corruptions of one of them.

    python benchmarks/distances.py --encoder runs/world_encoder runs/world_masked [--inception FILE]

Half A of the world's test pictures is compared with half B as it is, and with B after

    blur       a Gaussian filter of 1 pixel
    noise      independent noise of standard deviation 24 of 255
    blocks     a grey square of a quarter of the side, anywhere
    swapped    half of the pictures of other shapes replaced by circles: a mixture that is off, every picture real
    dropped    no picture of one shape: a mode that is missing

Writes benchmarks/results/distances.json. Two cores, about three minutes with two encoders.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow, ImageFilter

import unified_jax as uj
from unified_jax.evaluation.comparison import Measures, compare
from unified_jax.runs import distance
from unified_jax.runs.encoders import encoder_of

RESULT = Path(__file__).parent / "results" / "distances.json"


@dataclass(frozen=True)
class Held:
    """Pictures in memory."""

    name: str
    images: Any

    @property
    def digest(self) -> str:
        """Each set of a run has a name of its own, and the folder of features is thrown away."""
        return self.name

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, first: int, count: int) -> Sequence[np.ndarray]:
        """See `Pictures`."""
        return list(self.images[first : first + count])


def blur(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian filter."""
    return np.stack([np.asarray(Pillow.fromarray(x).filter(ImageFilter.GaussianBlur(1))) for x in images])


def noise(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Independent noise."""
    return np.clip(np.rint(images + rng.normal(0, 24, images.shape)), 0, 255).astype(np.uint8)


def blocks(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A grey square in each."""
    made, side = images.copy(), images.shape[1] // 4
    for one, (top, left) in zip(made, rng.integers(0, images.shape[1] - side, (len(made), 2)), strict=True):
        one[top : top + side, left : left + side] = 128
    return made


def swapped(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some pictures replaced by those of another class."""
    chosen = (labels != 0) & (rng.random(len(labels)) < 0.5)
    made = images.copy()
    made[chosen] = images[rng.choice(np.flatnonzero(labels == 0), chosen.sum())]
    return made


def dropped(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pictures of one class replaced by those of all others."""
    made, lost = images.copy(), labels == labels.max()
    made[lost] = images[rng.choice(np.flatnonzero(~lost), lost.sum())]
    return made


Corruption = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
CORRUPTIONS: tuple[tuple[str, Corruption], ...] = (
    ("blur", blur), ("noise", noise), ("blocks", blocks), ("swapped", swapped), ("dropped", dropped),
)  # fmt: skip


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", nargs="*", default=[])
    parser.add_argument("--inception", default="")
    parser.add_argument("--count", type=int, default=4000, help="pictures of a half")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    source = uj.World(resolution=32).source("test", ("image", "shape"))
    records = [source[i] for i in range(2 * options.count)]
    images = np.stack([record["image"] for record in records])
    labels = np.array([record["shape"] for record in records])
    a, b, classes = images[::2], images[1::2], labels[1::2]
    rng = np.random.default_rng(0)
    sets = [("half", b), *((name, f(b, classes, rng)) for name, f in CORRUPTIONS)]
    extractors: list[Any] = [encoder_of(Path(run)) for run in options.encoder]
    extractors += [uj.Inception(options.inception)] if options.inception else []
    extractors.append(uj.PooledPixels())
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for extractor in extractors:
            real = distance.features(Held("A", a), extractor, Path(root), 100)
            for name, made in sets:
                found = distance.features(Held(name, made), extractor, Path(root), 100)
                with distance.bars() as begin:
                    rows += [{"set": name} | row for row in compare(real, found, extractor.label, Measures(), begin)]
    for row in rows:
        if row["metric"] in ("frechet", "fid"):
            print(f"{row['extractor']:40} {row['set']:8} {row['value']:9.4f} [{row['low']:.4f}, {row['high']:.4f}]")
    options.out.write_text(json.dumps({"count": options.count, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
