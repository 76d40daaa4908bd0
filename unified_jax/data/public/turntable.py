"""uj_turntable: films of an apple, cherry or tomato that turns once, 16 frames of 64 x 64, from Fruits-360.

The originals are photos, not films: each fruit was filmed for one turn, and frame i of the turn is CLASS/r1_i_100.jpg,
divided among the folders Training and Test. Here a film is all frames of one class and axis (no prefix, r, r0, r1, ...)
in order, of which 16 at equal distances are taken. The words of the class's name that describe the fruit make the
caption. Every fourth class, in the order of names, is in the test set, so no fruit is in both. These rules follow the
authors' description and their list of files; the archive itself was not at hand when they were written.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.data.public.base import Original, PublicSet, Records, png, unreadable

FRUITS = ("Apple", "Cherry", "Tomato")
FRAMES, SIDE, TEST = 16, 64, 4
"""Frames of a film, pixels of a side; one in TEST classes is in the test set."""
PHOTO = re.compile(r".*/(?:Training|Test)/([^/]+)/(?:(r\d*)_)?(\d+)(?:_100)?\.jpg")
"""Class, axis and number of the frame."""
SAID = ("braeburn", "crimson", "snow", "granny", "smith", "pink", "lady", "delicious", "rainier", "sour", "heart")
COLOURS = ("red", "yellow", "golden", "black", "maroon", "orange")
KINDS = ("wax", "cherry")
SPELLED = {"worm": "wormy", "rotten": "rotten"}
COMMIT = "66537f2ad8df5eef794f6c0042aa589074630995"
ARCHIVE = f"fruits-360-100x100-{COMMIT}.tar.gz"

Film = tuple[str, str]
"""Class and axis."""


def features() -> dict[str, Any]:
    """A film, its class and its caption. TFDS needs TensorFlow to read its own feature of films."""
    import tensorflow_datasets as tfds

    frame = tfds.features.Image(shape=(SIDE, SIDE, 3))
    return {
        "video": tfds.features.Sequence(frame, length=FRAMES),
        "label": tfds.features.ClassLabel(names=list(FRUITS)),
        "caption": tfds.features.Text(),
    }


def caption(name: str) -> str:
    """What a film of this class shows.

    >>> caption("Cherry Wax Red 2"), caption("Apple 10")
    ('a red wax cherry, rotating on a white background', 'an apple, rotating on a white background')
    """
    fruit, *rest = name.lower().split()
    words = [SPELLED.get(word, word) for word in rest if word in SAID + COLOURS or word in SPELLED]
    kinds = [word for word in KINDS if word in rest]
    whole = " ".join([*words, *kinds, fruit])
    return f"{'an' if whole[0] in 'aeiou' else 'a'} {whole}, rotating on a white background"


def splits(originals: Mapping[str, Path]) -> dict[str, Callable[[], Records]]:
    """Train and test by class."""
    path = originals[ARCHIVE]
    chosen = _choose(path)
    names = sorted({name for name, _ in chosen})
    held_out = set(names[TEST - 1 :: TEST])
    wanted = {member for members in chosen.values() for member in members}
    photos = {photo[0]: content for photo, content in _photos(path, wanted) if photo[0] in wanted}

    def records(test: bool) -> Records:
        for (name, axis), members in sorted(chosen.items()):
            if (name in held_out) == test:
                frames = [_frame(photos[member], path, member) for member in members]
                record = {"video": frames, "label": name.split()[0], "caption": caption(name)}
                yield f"{name}-{axis}", record

    return {"train": lambda: records(False), "test": lambda: records(True)}


def _choose(path: Path) -> dict[Film, list[str]]:
    """The photos of each film that has enough of them."""
    found: dict[Film, list[tuple[int, str]]] = {}
    for photo, _ in _photos(path):
        name, axis, number = photo.groups()
        found.setdefault((name, axis or ""), []).append((int(number), photo[0]))
    films = {film: sorted(frames) for film, frames in found.items() if len(frames) >= FRAMES}
    if not films:
        raise unreadable(path, f"it holds no Training/CLASS/r1_NUMBER_100.jpg of {', '.join(FRUITS)}")
    return {film: [frames[len(frames) * i // FRAMES][1] for i in range(FRAMES)] for film, frames in films.items()}


def _photos(path: Path, wanted: Set[str] = frozenset()) -> Iterator[tuple[re.Match[str], bytes]]:
    """The archive's photos of our fruits, with the content of those that are wanted."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                named = PHOTO.fullmatch(member.name)
                if named is None or named[1].split()[0] not in FRUITS:
                    continue
                file = archive.extractfile(member) if member.name in wanted else None
                yield named, file.read() if file else b""
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise unreadable(path, error) from None


def _frame(content: bytes, path: Path, member: str) -> bytes:
    from PIL import Image as Pillow

    try:
        picture = Pillow.open(io.BytesIO(content)).convert("RGB")
    except Exception as error:  # decoders raise any exception
        raise unreadable(path, f"{member} is broken ({error})") from None
    return png(np.asarray(picture.resize((SIDE, SIDE), Pillow.Resampling.LANCZOS)))


TURNTABLE = PublicSet(
    name="uj_turntable",
    short="turntable",
    version="1.0.0",
    summary="films of turning fruit, 16 frames of 64 x 64, 3 classes, with captions",
    records="about 120 train, about 40 test",
    licence="CC BY-SA 4.0",
    licence_address="https://creativecommons.org/licenses/by-sa/4.0/",
    home="https://github.com/fruits-360/fruits-360-100x100",
    originals=(Original(ARCHIVE, f"https://github.com/fruits-360/fruits-360-100x100/archive/{COMMIT}.tar.gz"),),
    features=features,
    splits=splits,
    amount="about 1 GB",
)
