"""WebDataset tars as records with random access: an index written once beside them says where each member begins.

    shards/train-000000.tar      000.jpg 000.txt 000.cls 000.json  001.jpg ...

Members of one name up to its first dot are one record. Columns: `image`, `video`, `audio`, `points` (the member of that
kind), `caption` (.txt), `label` (.cls), every other suffix by itself, and the entries of .json. Beside each tar lies
NAME.tar.index, or in the user's cache folder where that is not allowed; a tar of another size or time is read again.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from unified_jax.data.base import Source
from unified_jax.data.kinds import KINDS
from unified_jax.data.listing import joined
from unified_jax.data.located import Located
from unified_jax.data.splits import known_splits, part_of, pick_split
from unified_jax.data.tar_index import Index, read_index, tar_files
from unified_jax.errors import UserError
from unified_jax.modalities.reading import File, decode_text, first_line

KNOWN = {"caption": ("txt", "caption", "text"), "label": ("cls",)}
"""Columns with a suffix of another name."""


@dataclass(frozen=True)
class Shards(Located):
    """The records of WebDataset tars."""

    def splits(self) -> tuple[str, ...]:
        """The splits that its tars have, and test where a share is held out."""
        return known_splits(tar_files(self.path), self.test)

    def columns(self, split: str) -> tuple[str, ...]:
        """Columns of the first record."""
        index = read_index(next(iter(tar_files(self.path).values())))
        source = ShardSource(self.name, index, ())
        kinds = tuple(kind for kind in (*KINDS, *KNOWN) if len(source) and source.member(0, kind) is not None)
        return (*kinds, *(source.entries(0) if len(source) else ()))

    def parts(self, split: str, fields: tuple[str, ...]) -> tuple[tuple[float, str, Source], ...]:
        """The single part of this data set. UserError for missing or damaged tars, an unknown split or field."""
        files = tar_files(self.path)
        group, side = pick_split(self.name, split, tuple(files), self.test)
        index = read_index(files[group])
        wanted = tuple(self.wanted(fields).items())
        source = ShardSource(self.name, index, wanted)
        for field, column in wanted:
            if len(source) and source.member(0, column) is None and column not in source.entries(0):
                there = sorted({*index.names(0), *source.entries(0)})
                raise UserError(
                    f"Data set {self.name!r}: {column!r} (for field {field!r}) is not in its first record; it has "
                    f"{', '.join(there)}. Map names with --data.rename (`data`: --rename) FIELD COLUMN."
                )
        rows = part_of(len(source), side, self.test)
        return ((1.0, self.name, source if rows is None else ShardSource(self.name, index, wanted, rows)),)


@dataclass(frozen=True, eq=False)
class ShardSource:
    """Records of tars."""

    name: str
    index: Index
    wanted: tuple[tuple[str, str], ...]
    """Pairs (field, column)."""
    rows: Int[np.ndarray, "k"] | None = None
    """Indices of the records; None: all."""
    light: ClassVar[bool] = True
    """See `texts.Light`."""

    def __len__(self) -> int:
        return len(self.index.starts) - 1 if self.rows is None else len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record `index`. IndexError outside; UserError for a record without a wanted member; RunError, see `Index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"Data set {self.name!r} has {len(self)} records; found the index {index}.")
        record = index if self.rows is None else int(self.rows[index])
        entries: dict[str, Any] | None = None
        found = {}
        for field, column in self.wanted:
            if (member := self.member(record, column)) is not None:
                found[field] = self._value(index, column, self.index.read(member))
                continue
            entries = self.entries(record) if entries is None else entries
            if entries.get(column) is None:
                key = os.fsdecode(self.index.table.column("key")[int(self.index.starts[record])].as_py())
                raise UserError(f"Data set {self.name!r}, record {index}: {key!r} has no {column!r}.")
            found[field] = entries[column]
        return found

    @property
    def digest(self) -> str:
        """See `data.base.Recorded`."""
        made = hashlib.blake2b(digest_size=16)
        for name in ("key", "suffix"):
            made.update(joined(self.index.table.column(name).cast("binary")))
        made.update(self.index.table.column("size").to_numpy().tobytes())
        made.update(b"" if self.rows is None else self.rows.tobytes())
        return made.hexdigest()

    def member(self, record: int, column: str) -> int | None:
        """The member of a record that holds a column, None where there is none."""
        names = self.index.names(record)
        for place, suffix in enumerate(names):
            lower = suffix.lower()
            if lower == column or lower in KNOWN.get(column, ()) or f".{lower}" in KINDS.get(column, ()):
                return int(self.index.starts[record]) + place
        return None

    def entries(self, record: int) -> dict[str, Any]:
        """The entries of a record's .json; {} without one."""
        names = [suffix.lower() for suffix in self.index.names(record)]
        if "json" not in names:
            return {}
        file = self.index.read(int(self.index.starts[record]) + names.index("json"))
        try:
            found = json.loads(file.content)
        except ValueError as error:
            raise UserError(f"Data set {self.name!r}: {file.name!r} is no JSON ({first_line(error)}).") from None
        return found if isinstance(found, dict) else {}

    def _value(self, index: int, column: str, file: File) -> Any:
        if column not in KNOWN and file.suffix not in (".txt", ".cls"):
            return file
        try:
            text = decode_text(file.content, file.name).strip()
        except ValueError as error:
            raise UserError(f"Data set {self.name!r}, record {index}: {error}.") from None
        return int(text) if file.suffix == ".cls" and text.lstrip("-").isdigit() else text
