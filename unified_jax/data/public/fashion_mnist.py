"""Fashion-MNIST: the set that TFDS prepares as fashion_mnist 3.0.1, record by record and in its order."""

import gzip
import io
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.data.public.base import Original, PublicSet, Records, png, unreadable

NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
PICTURES, LABELS = 0x803, 0x801
"""Magic numbers of IDX files of bytes with three dimensions, and with one."""
ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
FILES = (
    ("train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 26_421_880),
    ("train-labels-idx1-ubyte.gz", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", 29_515),
    ("t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", 4_422_102),
    ("t10k-labels-idx1-ubyte.gz", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", 5_148),
)


def features() -> dict[str, Any]:
    """A grey picture and its class."""
    import tensorflow_datasets as tfds

    return {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(names=list(NAMES))}


def splits(originals: Mapping[str, Path]) -> dict[str, Callable[[], Records]]:
    """As published: train and test."""

    def records(part: str) -> Records:
        where = originals[f"{part}-labels-idx1-ubyte.gz"]
        pictures = read_idx(originals[f"{part}-images-idx3-ubyte.gz"], PICTURES)
        labels = read_idx(where, LABELS)
        if len(pictures) != len(labels):
            raise unreadable(where, f"it has {len(labels)} labels for {len(pictures)} pictures")
        for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            yield i, {"image": png(picture), "label": int(label)}

    return {"train": lambda: records("train"), "test": lambda: records("t10k")}


def read_idx(path: Path, magic: int) -> np.ndarray:
    """The bytes of a gzipped IDX file. Raises UserError if it is broken or holds something else."""
    try:
        with gzip.open(path) as file:
            content = io.BytesIO(file.read())
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from None
    dimensions = magic & 0xFF
    head = content.read(4 + 4 * dimensions)
    if len(head) < 4 + 4 * dimensions or struct.unpack(">I", head[:4])[0] != magic:
        raise unreadable(path, f"it is no IDX file of bytes with {dimensions} dimension(s)")
    shape = struct.unpack(f">{dimensions}I", head[4:])
    values = np.frombuffer(content.read(), np.uint8)
    if dimensions == 3 and shape[1:] != (28, 28):
        raise unreadable(path, f"its pictures are {shape[1]} x {shape[2]}, expected 28 x 28")
    if values.size != np.prod(shape, dtype=np.int64):
        raise unreadable(path, f"it holds {values.size} bytes, its head says {' x '.join(map(str, shape))}")
    return values.reshape(shape)


FASHION_MNIST = PublicSet(
    name="fashion_mnist",
    short="fashion",
    version="3.0.1",
    summary="grey pictures of clothes, 28 x 28, 10 classes",
    records="60,000 train, 10,000 test",
    licence="MIT",
    licence_address="https://github.com/zalandoresearch/fashion-mnist/blob/master/LICENSE",
    home="https://github.com/zalandoresearch/fashion-mnist",
    originals=tuple(Original(file, f"{ADDRESS}/{file}", sha256, size) for file, sha256, size in FILES),
    features=features,
    splits=splits,
    supervised=("image", "label"),
)
