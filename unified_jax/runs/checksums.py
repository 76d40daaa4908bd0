"""A checksum of every file of a checkpoint, because Orbax does not notice every flipped bit.

`seal` runs in Orbax's background thread after all files of a step are written and before its folder gets its final
name. So a finished checkpoint has its `checksums.json`, and training never waits for it. `find_damage` reads all files
again before a restore. A checkpoint without that file (from elsewhere, or an earlier version) is used unchecked. CRC32
finds accidents, not forgeries.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

FILE = "checksums.json"
CHUNK = 1 << 22


def seal(folder: Path) -> None:
    """Writes the checksums of the files below the items of one step (`state/`, `loss/`). Raises OSError."""
    found = {
        path.relative_to(folder).as_posix(): _entry(path)
        for item in sorted(p for p in folder.iterdir() if p.is_dir())
        for path in sorted(p for p in item.rglob("*") if p.is_file())
    }
    (folder / FILE).write_text(json.dumps(found, indent=0) + "\n")


def is_sealed(folder: Path) -> bool:
    """Whether a step has a list of checksums that can be read."""
    return bool(_recorded(folder / FILE))


def find_damage(folder: Path) -> str | None:
    """The damage of a step's files, as part of a sentence; None if they are intact.

    Raises OSError if an existing file cannot be read.
    """
    recorded = _recorded(folder / FILE)
    for name, (size, crc) in recorded.items():
        path = folder / name
        if not path.is_file():
            return f"the file {name} is missing"
        if path.stat().st_size != size:
            return f"the file {name} has {path.stat().st_size} bytes, expected {size}"
        if _entry(path)[1] != crc:
            return f"the file {name} was changed after it was written (its checksum differs)"
    return None


def fingerprint(folder: Path) -> str:
    """Twelve hex digits that identify the files of a step."""
    files = (path for path in folder.rglob("*") if path.is_file())
    recorded = _recorded(folder / FILE) or {path.relative_to(folder).as_posix(): _entry(path) for path in files}
    return hashlib.sha256(json.dumps(recorded, sort_keys=True).encode()).hexdigest()[:12]


def content(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of named arrays: their names, shapes and values, whatever file holds them."""
    digest = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        digest.update(f"{name}{list(value.shape)}".encode())
        digest.update(np.ascontiguousarray(value.astype(np.float32)).tobytes())
    return digest.hexdigest()


def _recorded(path: Path) -> dict[str, tuple[int, int]]:
    """The checksums; empty if missing or truncated. Raises OSError if the file cannot be read."""
    try:
        plain: Any = json.loads(path.read_bytes())
        return {str(name): (int(size), int(crc)) for name, (size, crc) in plain.items()}
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return {}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _entry(path: Path) -> tuple[int, int]:
    """(size, CRC32)."""
    size = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return size, crc
