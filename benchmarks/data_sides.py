"""What `data.py` compares with: torch's DataLoader and the `datasets` library on the same pictures.

Each side is a process: `python benchmarks/data_sides.py SIDE TASK FOLDER` in the peers' environment (torch,
torchvision, datasets, pillow; nothing of this library is imported). It gives batches without end and answers on its
standard output:

    {"round": K}           the batches that are ready are taken, then K are timed; waits until its buffers are full
    {"check": [[NAME, MIRRORED], ...], "to": FILE}   those pictures, saved as `[n, h, w, c]`
"""

import importlib.util
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from turns import busy_seconds

SIZE, BATCH, AHEAD = 256, 32, 4
"""Side in the end, records of a batch, batches that every side prepares ahead."""
SIDES = {
    "torch": ("torch", "torchvision"),
    "torch, tensors": ("torch", "torchvision"),
    "datasets": ("datasets",),
    "datasets, torch": ("datasets", "torch"),
}
"""The peers, and what each needs. "tensors" decodes and scales with torchvision's operations instead of Pillow's."""
Pick = Callable[[str, bool], np.ndarray]


def centre_crop(picture: Any) -> Any:
    """ADM's crop, written with Pillow."""
    while min(picture.size) >= 2 * SIZE:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = SIZE / min(picture.size)
    whole = (round(picture.width * scale), round(picture.height * scale))
    picture = picture.resize(whole, Image.Resampling.BICUBIC)
    left, top = (picture.width - SIZE) // 2, (picture.height - SIZE) // 2
    return picture.crop((left, top, left + SIZE, top + SIZE))


def prepared(picture: Any, mirrored: bool) -> np.ndarray:
    """A Pillow image, cropped and mirrored, as an array."""
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    picture = picture if picture.size == (SIZE, SIZE) else centre_crop(picture)
    return np.asarray(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture)


def tensor_prepared(path: str, mirrored: bool) -> Any:
    """The same by torchvision's operations on bytes, which are vectorised; `[c, h, w]`."""
    import torch
    from torchvision.io import decode_jpeg, read_file
    from torchvision.transforms.v2 import functional

    x = decode_jpeg(read_file(path))
    while min(x.shape[1:]) >= 2 * SIZE:
        if x.shape[1] % 2 == 0 and x.shape[2] % 2 == 0:
            x = torch.nn.functional.avg_pool2d(x[None].float(), 2)[0].round().to(torch.uint8)
        else:
            whole = Image.fromarray(x.permute(1, 2, 0).numpy())
            halves = whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.BOX)
            x = functional.pil_to_tensor(halves)
    scale = SIZE / min(x.shape[1:])
    whole = [round(side * scale) for side in x.shape[1:]]
    x = functional.resize(x, whole, interpolation=functional.InterpolationMode.BICUBIC, antialias=True)
    top, left = (whole[0] - SIZE) // 2, (whole[1] - SIZE) // 2
    x = x[:, top : top + SIZE, left : left + SIZE]
    return x.flip(-1) if mirrored else x.contiguous()


class Pictures:
    """Files as torch's Dataset."""

    def __init__(self, folder: str, tensors: bool) -> None:
        self.paths, self.tensors = sorted(str(path) for path in Path(folder).glob("*.jpg")), tensors

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return self.make(self.paths[index], random.random() < 0.5)

    def make(self, path: str, mirrored: bool) -> Any:
        """One picture."""
        if self.tensors:
            return tensor_prepared(path, mirrored)
        with Image.open(path) as picture:
            return prepared(picture, mirrored)


def loader(pictures: Any, collate: Any = None) -> Iterator[Any]:
    """Batches of torch's DataLoader with two workers, epoch after epoch."""
    from torch.utils.data import DataLoader

    batches = DataLoader(
        pictures, BATCH, shuffle=True, num_workers=2, prefetch_factor=AHEAD // 2, persistent_workers=True,
        drop_last=True, collate_fn=collate,
    )  # fmt: skip
    return itertools.chain.from_iterable(itertools.repeat(batches))


def torch_side(folder: str, tensors: bool) -> tuple[Iterator[Any], Pick]:
    """(batches, one picture by name) over files."""
    pictures = Pictures(folder, tensors)

    def pick(name: str, mirrored: bool) -> np.ndarray:
        made = pictures.make(str(Path(folder, name)), mirrored)
        return made.permute(1, 2, 0).numpy() if tensors else made

    return loader(pictures), pick


def datasets_side(folder: str, task: str, workers: bool) -> tuple[Iterator[Any], Pick]:
    """The same by `datasets`: its image folder, or for small pictures its own Arrow files, which hold the bytes."""
    import datasets

    datasets.disable_progress_bars()
    names = [path.name for path in sorted(Path(folder).glob("*.jpg"))]
    if task == "photos":
        found = datasets.load_dataset(
            "imagefolder", data_dir=folder, split="train", drop_labels=True, cache_dir=folder + ".hf"
        )
    else:
        if not Path(folder + ".arrow").exists():
            rows = [{"bytes": Path(folder, name).read_bytes(), "path": None} for name in names]
            kinds = datasets.Features({"image": datasets.Image()})
            datasets.Dataset.from_dict({"image": rows}, features=kinds).save_to_disk(folder + ".arrow")
        found = datasets.load_from_disk(folder + ".arrow")
    assert len(found) == len(names)

    def changed(rows: dict[str, list[Any]]) -> dict[str, list[np.ndarray]]:
        return {"image": [prepared(picture, random.random() < 0.5) for picture in rows["image"]]}

    def pick(name: str, mirrored: bool) -> np.ndarray:
        return prepared(found[names.index(name)]["image"], mirrored)

    shown = found.with_transform(changed)
    if workers:
        return loader(shown, collate_images), pick

    def endless() -> Iterator[np.ndarray]:
        for epoch in itertools.count():
            for rows in shown.shuffle(seed=epoch).iter(BATCH, drop_last_batch=True):
                yield np.stack(rows["image"])

    return endless(), pick


def collate_images(rows: list[dict[str, np.ndarray]]) -> Any:
    """A batch as torch's own collation makes it."""
    from torch.utils.data import default_collate

    return default_collate([row["image"] for row in rows])


def processor_seconds() -> float:
    """Processor time of this process and the living ones below it; of this one alone where /proc does not exist."""
    found: dict[int, tuple[int, float]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        found[int(entry.parent.name)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
    own = {os.getpid()}
    while more := {pid for pid, (parent, _) in found.items() if parent in own} - own:
        own |= more
    return sum(found[pid][1] for pid in own if pid in found) or time.process_time()


def settle() -> None:
    """Waits until this side is idle: its buffers are full."""
    for _ in range(100):
        before = processor_seconds()
        time.sleep(0.1)
        if processor_seconds() - before < 0.015:
            return


def timed(batches: Iterator[Any], count: int) -> dict[str, float]:
    """`count` batches while the buffers are neither full nor filled by waiting."""
    for _ in range(AHEAD):
        next(batches)
    before, busy, start = processor_seconds(), busy_seconds(), time.perf_counter()
    for _ in range(count):
        next(batches)
    seconds = time.perf_counter() - start
    processor = processor_seconds() - before
    others = (busy_seconds() - busy - processor) / (seconds * (os.cpu_count() or 1))
    settle()
    return {"seconds": seconds, "processor": processor, "others": max(0.0, others)}


def serve(batches: Iterator[Any], pick: Pick) -> None:
    """Answers requests until its standard input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    next(batches)
    settle()
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "check" in request:
            np.save(request["to"], np.stack([pick(*one) for one in request["check"]]))
        answer = {} if "check" in request else timed(batches, request["round"])
        print(json.dumps(answer), file=replies, flush=True)


def missing(side: str) -> list[str]:
    """What a side needs that is not installed."""
    return [name for name in SIDES[side] if importlib.util.find_spec(name) is None]


def main(side: str, task: str, folder: str) -> None:
    """One side."""
    if absent := missing(side):
        print(json.dumps({"ready": False, "missing": absent}), flush=True)
    elif side.startswith("torch"):
        serve(*torch_side(folder, "tensors" in side))
    else:
        serve(*datasets_side(folder, task, "torch" in side))


if __name__ == "__main__":
    main(*sys.argv[1:])
