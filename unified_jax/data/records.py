"""Records in ArrayRecord files, as `unified-jax data build` writes them of any source (`runs.building`).

    DIR/records.json               fields, class names, and of each split: records and files; written last
    DIR/SPLIT/000000.array_record  the records in their order, each encoded by MessagePack

A value is a text, a number, an array, or a `File` with its name: pictures stay as they were encoded.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from unified_jax.data.base import Source
from unified_jax.errors import RunError, UserError
from unified_jax.modalities.reading import File, first_line

HEAD, UNFINISHED = "records.json", "building.json"
FORMAT = 1
_FILE, _ARRAY = 1, 2
"""Codes of MessagePack's extensions."""


def encode_record(record: dict[str, Any]) -> bytes:
    """A record's bytes. Raises ValueError for a value of another type.

    >>> decode_record(encode_record({"caption": "a cat", "label": 3}))
    {'caption': 'a cat', 'label': 3}
    """
    import msgpack

    def other(value: Any) -> Any:
        if isinstance(value, File):
            return msgpack.ExtType(_FILE, msgpack.packb([value.name, value.content]))
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise ValueError(f"expected a text, a number, an array or a file, found {type(value).__name__}")
        content = np.ascontiguousarray(array)
        return msgpack.ExtType(_ARRAY, msgpack.packb([content.dtype.str, list(array.shape), content.tobytes()]))

    found: Any = msgpack.packb({name: record[name] for name in sorted(record)}, default=other)
    return found


def decode_record(content: bytes) -> dict[str, Any]:
    """The record of some bytes. Raises ValueError for others."""
    import msgpack

    def known(code: int, data: bytes) -> Any:
        if code == _FILE:
            name, stored = msgpack.unpackb(data)
            return File(name, stored=stored)
        kind, shape, stored = msgpack.unpackb(data)
        return np.frombuffer(stored, np.dtype(kind)).reshape(shape)

    try:
        return msgpack.unpackb(content, ext_hook=known)
    except Exception as error:  # MessagePack raises several
        raise ValueError(f"{len(content)} bytes are no record ({first_line(error)})") from None


@dataclass(frozen=True)
class Records:
    """A folder that `unified-jax data build` wrote."""

    path: str = ""
    """The folder."""
    rename: tuple[tuple[str, str], ...] = ()
    """Pairs (field of the model, field of the records) where the names differ."""
    places: ClassVar[tuple[str, ...]] = ("path",)
    """See `data.base.DataSet`."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return Path(self.path).name or "records"

    def columns(self, split: str) -> tuple[str, ...]:
        """Fields of the records."""
        return tuple(read_head(self.path)["fields"])

    def splits(self) -> tuple[str, ...]:
        """Splits that are there."""
        return tuple(read_head(self.path)["splits"])

    def parts(self, split: str, fields: tuple[str, ...]) -> tuple[tuple[float, str, Source], ...]:
        """The single part of this data set. UserError for a folder without records, an unknown split or field."""
        head = read_head(self.path)
        if split not in head["splits"]:
            raise UserError(f"Data set {self.name!r} has no split {split!r}; it has: {', '.join(head['splits'])}.")
        wanted = tuple((field, dict(self.rename).get(field, field)) for field in fields)
        for field, column in wanted:
            if column not in head["fields"]:
                raise UserError(
                    f"Data set {self.name!r}: {column!r} (for field {field!r}) is missing; it has "
                    f"{', '.join(head['fields'])}. Map names with --data.rename (`data`: --rename) FIELD NAME."
                )
        entry = head["splits"][split]
        folder = Path(self.path).expanduser() / split
        names = tuple((f, tuple(head["names"][c])) for f, c in wanted if c in head["names"])
        source = RecordSource(self.name, folder, entry["records"], entry["files"], wanted, names)
        source.check()
        return ((1.0, self.name, source),)


@dataclass(frozen=True)
class RecordSource:
    """The records of a split."""

    name: str
    folder: Path
    count: int
    files: int
    """How many."""
    wanted: tuple[tuple[str, str], ...]
    class_names: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """See `data.base.Named`."""
    light: ClassVar[bool] = True
    """See `texts.Light`."""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record `index`. IndexError outside; RunError for a file that cannot be read."""
        if not 0 <= index < self.count:
            raise IndexError(f"Data set {self.name!r} has {self.count} records; found the index {index}.")
        try:
            found = decode_record(self._opened[index])
        except Exception as error:  # readers raise any exception
            raise RunError(
                f"Data set {self.name!r}, record {index} in {str(self.folder)!r} cannot be read ({first_line(error)}); "
                "build the records again."
            ) from None
        return {field: found[column] for field, column in self.wanted}

    @property
    def digest(self) -> str:
        """See `data.base.Recorded`."""
        sizes = [path.stat().st_size for path in self._paths()]
        return hashlib.blake2b(json.dumps([self.count, sizes]).encode(), digest_size=16).hexdigest()

    def check(self) -> None:
        """Raises UserError for a missing file."""
        for path in self._paths():
            if not path.is_file():
                raise UserError(f"Data set {self.name!r}: the file {str(path)!r} is missing; build it again.")

    def _paths(self) -> list[Path]:
        return [shard_path(self.folder, i) for i in range(self.files)]

    @cached_property
    def _opened(self) -> Any:
        import grain

        return grain.sources.ArrayRecordDataSource([str(path) for path in self._paths()])


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"{number:06d}.array_record"


def read_head(folder: str) -> dict[str, Any]:
    """What a folder of records says of itself. Raises UserError where it holds none, or they are not finished."""
    path = Path(folder).expanduser() / HEAD
    try:
        found = json.loads(path.read_bytes())
        if (
            not isinstance(found, dict)
            or found.get("format") != FORMAT
            or not {"fields", "names", "splits"} <= set(found)
        ):
            raise ValueError("it does not describe records of this version")
        return found
    except FileNotFoundError:
        begun = path.with_name(UNFINISHED).is_file()
        state = "are not finished: the same command goes on" if begun else "are not there: write them"
        raise UserError(f"The records in {folder!r} {state}: unified-jax data build SOURCE --to {folder}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} cannot be read: {error}; build the records again.") from None
