"""Folders of files: class folders, files with a caption beside each, or a metadata table that names the files.

    photos/cat/1.png  photos/dog/2.png                label: the folder
    photos/1.png      photos/1.txt                    caption: the text beside
    photos/metadata.csv (or .jsonl, .parquet)         a row for each file: file_name, and columns as fields;
                                                      depth_file_name names a second file, the field depth
    photos/train/...  photos/test/...                 any of these below folders of splits

Fields are the columns `image`, `video`, `audio`, `points` (the file of that kind), `file` (a file of any kind),
`label`, `caption`, and those of the metadata. Several kinds at once are the files of one name: a.png with a.wav.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from unified_jax.data.base import Source
from unified_jax.data.kinds import KINDS, MEDIA, TEXTS, split_of
from unified_jax.data.listing import Listing, forget, list_files
from unified_jax.data.located import Labelled
from unified_jax.data.metadata import has_metadata, metadata_columns, metadata_part
from unified_jax.data.rows import readable_columns
from unified_jax.data.splits import by_folder, known_splits, part_of, pick_split, within
from unified_jax.errors import RunError, UserError
from unified_jax.modalities.reading import File, read_text

FILE, LABEL, CAPTION = "file", "label", "caption"
COLUMNS = (*KINDS, FILE, LABEL, CAPTION)
"""What a folder without metadata may have."""


@dataclass(frozen=True)
class Folder(Labelled):
    """The files of a folder as records."""

    def splits(self) -> tuple[str, ...]:
        """The splits that its folders name, and test where a share is held out."""
        _, there = by_folder([folder.split("/")[0] for folder in list_files(Path(self.path)).folders])
        return known_splits(there, self.test)

    def columns(self, split: str) -> tuple[str, ...]:
        """Columns of the metadata, or kinds of files, captions and labels that are there."""
        listing = list_files(Path(self.path))
        if has_metadata(listing):
            table, named = metadata_columns(listing)
            readable = readable_columns(table.schema)
            return tuple(field for field, column in named.items() if column in readable)
        kinds = tuple(kind for kind in KINDS if listing.of_suffixes(KINDS[kind]).any())
        kinds = tuple(kind for kind in kinds if kind == _main_kind(listing)) or (FILE,)
        below = [folder.split("/")[1 if split_of(folder.split("/")[0]) else 0 :] for folder in listing.folders]
        labels = (LABEL,) if any(parts and parts[0] for parts in below) else ()
        return (*kinds, *labels, *((CAPTION,) if listing.of_suffixes(TEXTS).any() else ()))

    def parts(self, split: str, fields: tuple[str, ...]) -> tuple[tuple[float, str, Source], ...]:
        """The single part of this data set. UserError for a missing folder, an unknown split or field."""
        listing = list_files(Path(self.path))
        wanted = self.wanted(fields)
        if has_metadata(listing):
            return ((1.0, self.name, metadata_part(self, listing, split, wanted)),)
        return ((1.0, self.name, _scanned(self, listing, split, wanted)),)


def _scanned(data: Folder, listing: Listing, split: str, wanted: dict[str, str]) -> Source:
    """The files of a folder without metadata."""
    for field, column in wanted.items():
        if column not in COLUMNS:
            raise UserError(
                f"Data set {data.name!r}: {column!r} (for field {field!r}) is no column of a folder; they are "
                f"{', '.join(COLUMNS)}, or those of a metadata.csv in it. Map names with --data.rename "
                "(`data`: --rename) FIELD COLUMN."
            )
    media = tuple(dict.fromkeys(c for c in wanted.values() if c in KINDS or c == FILE))
    first = media[0] if media else _main_kind(listing)
    found = np.flatnonzero(listing.of_suffixes(_suffixes(listing, first)))
    if not len(found):
        raise UserError(f"The folder {data.path!r} {_lacks(listing, first)}.")
    sides, there = by_folder([folder.split("/")[0] for folder in listing.folders])
    group, side = pick_split(data.name, split, there, data.test)
    rows = found[within(sides, group)[listing.column("folder")[found]]]
    part = part_of(len(rows), side, data.test)
    rows = rows if part is None else rows[part]
    names = _classes(data, listing, found, sides) if LABEL in wanted.values() else ((), np.zeros(0, np.int32))
    others = {kind: _partners(listing, rows, _suffixes(listing, kind)) for kind in media[1:]}
    return FolderSource(data.name, listing, rows, tuple(wanted.items()), first, *names, others)


def _lacks(listing: Listing, kind: str) -> str:
    """What a folder without files of a kind has instead, in words."""
    if kind == FILE:
        return "holds no files with data; expected pictures, sounds, films, tables or tars"
    counts = ", ".join(f"{n} {k}" for k in KINDS if (n := int(listing.of_suffixes(KINDS[k]).sum())))
    return f"has no {kind} files ({', '.join(KINDS[kind])}); of other kinds it has {counts or 'none'}"


def _suffixes(listing: Listing, kind: str) -> tuple[str, ...]:
    if kind != FILE:
        return KINDS[kind]
    known = tuple(suffix for suffix in listing.suffixes if suffix in MEDIA)
    return known or tuple(suffix for suffix in listing.suffixes if suffix not in TEXTS)


def _main_kind(listing: Listing) -> str:
    """The kind of most files; GIFs alone are films."""
    return max(KINDS, key=lambda kind: (int(listing.of_suffixes(KINDS[kind]).sum()), kind == "video"))


def _classes(
    data: Folder, listing: Listing, found: Int[np.ndarray, "k"], sides: list[str | None]
) -> tuple[tuple[str, ...], Int[np.ndarray, "f"]]:
    """(names of the class folders, the class of every folder): the first one below the root, or below the split's."""
    words = []
    for folder, side in zip(listing.folders, sides, strict=True):
        parts = folder.split("/")[1 if side else 0 :]
        words.append(parts[0] if parts and parts[0] else "")
    used = {words[i] for i in np.unique(listing.column("folder")[found])}
    if "" in used:
        raise UserError(
            f"Data set {data.name!r}: {LABEL!r} is the folder of a file, and there are files in no class folder; move "
            "them into one, or name the classes in a metadata.csv."
        )
    names = tuple(sorted(used))
    if len(folded := {name.lower(): name for name in names}) < len(names):
        twice = next(name for name in names if folded[name.lower()] != name)
        raise UserError(f"The class folders {twice!r} and {folded[twice.lower()]!r} differ by case alone; join them.")
    place = {name: i for i, name in enumerate(names)}
    return names, np.array([place.get(word, -1) for word in words], np.int32)


def _partners(listing: Listing, rows: Int[np.ndarray, "k"], suffixes: tuple[str, ...]) -> Int[np.ndarray, "k"]:
    """For each file, the one of its name in its folder that has one of these suffixes; -1 where there is none."""
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are made when it is imported

    others = np.flatnonzero(listing.of_suffixes(suffixes))

    def keys(chosen: np.ndarray) -> Any:
        table = listing.table.take(chosen)
        folders = pc.cast(pc.cast(table.column("folder"), pa.string()), pa.binary())
        return pc.binary_join_element_wise(folders, table.column("stem"), pa.scalar(b"/"))

    found = pc.index_in(keys(rows), value_set=keys(others)).to_numpy(zero_copy_only=False)
    missing = np.isnan(found.astype(np.float64))
    return np.where(missing, -1, others[np.where(missing, 0, found).astype(np.int64)] if len(others) else -1)


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Files of a listing as records."""

    name: str
    listing: Listing
    rows: Int[np.ndarray, "k"]
    """Indices of the files of the first kind."""
    wanted: tuple[tuple[str, str], ...]
    """Pairs (field, column)."""
    first: str
    names: tuple[str, ...]
    """Of the classes."""
    classes: Int[np.ndarray, "f"]
    """Of each folder."""
    others: dict[str, Int[np.ndarray, "k"]]
    """The files of further kinds, for each record."""
    light: ClassVar[bool] = True
    """See `texts.Light`."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record `index`. IndexError outside; RunError for a file that is gone, or has another size than before."""
        if not 0 <= index < len(self):
            raise IndexError(f"Data set {self.name!r} has {len(self)} records; found the index {index}.")
        found = {}
        for field, column in self.wanted:
            read: Callable[[int, str], Any] = {LABEL: self._label, CAPTION: self._caption}.get(column, self._file)
            found[field] = read(index, column)
        return found

    @property
    def class_names(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """See `data.base.Named`."""
        return tuple((field, self.names) for field, column in self.wanted if column == LABEL)

    @property
    def digest(self) -> str:
        """See `data.base.Recorded`."""
        return self.listing.digest(self.rows)

    @property
    def beside(self) -> str:
        """See `data.base.Accompanied`."""
        columns = {column for _, column in self.wanted} - {self.first, LABEL}
        places = [_partners(self.listing, self.rows, TEXTS)] if CAPTION in columns else []
        places += [self.others[column] for column in sorted(columns & self.others.keys())]
        found = [self.listing.digest(place[place >= 0]) for place in places]
        return hashlib.blake2b(" ".join(found).encode(), digest_size=16).hexdigest() if found else ""

    @property
    def captions_digest(self) -> str:
        """Of the texts beside the files, each of which is read; "" where none is asked for."""
        columns = [column for _, column in self.wanted if column == CAPTION]
        if not columns:
            return ""
        made = hashlib.blake2b(digest_size=16)
        for index in range(len(self)):
            try:
                words = self._caption(index, CAPTION)
            except UserError:  # said where the record is written
                words = ""
            made.update(f"{len(words)} {words}".encode(errors="surrogateescape"))
        return made.hexdigest()

    def _label(self, index: int, column: str) -> int:
        return int(self.classes[self.listing.table.column("folder")[int(self.rows[index])].as_py()])

    def _caption(self, index: int, column: str) -> str:
        place = int(self.rows[index])
        folder = self.listing.folders[self.listing.table.column("folder")[place].as_py()]
        whole = self.listing.root / folder / self.listing.stem(place)
        for suffix in (*TEXTS, *map(str.upper, TEXTS)):
            path = whole.with_name(whole.name + suffix)
            if path.is_file():
                try:
                    return read_text(path).strip()
                except ValueError as error:
                    raise UserError(f"Data set {self.name!r}, record {index}: {error}.") from None
        raise UserError(
            f"Data set {self.name!r}, record {index}: {self.listing.name(place)!r} has no caption; expected a text "
            f"file {whole.name + TEXTS[0]!r} beside it, or a metadata.csv with the columns file_name and caption."
        )

    def _file(self, index: int, column: str) -> File:
        place = int(self.rows[index] if column in (self.first,) else self.others[column][index])
        if place < 0:
            name = self.listing.name(int(self.rows[index]))
            raise UserError(f"Data set {self.name!r}, record {index}: {name!r} has no file of {column} beside it.")
        name = self.listing.name(place)
        path, size = self.listing.root / name, self.listing.table.column("size")[place].as_py()
        try:
            now = os.stat(path).st_size
        except OSError:
            gone = "is a link to nothing" if size < 0 else "is gone"
            raise RunError(f"Data set {self.name!r}, record {index}: the file {str(path)!r} {gone}.") from None
        if now != size:
            forget(self.listing.root)
            raise RunError(
                f"Data set {self.name!r}, record {index}: the file {str(path)!r} has {now} bytes, {size} when it was "
                "listed. A set must not change while it is in use; the next start lists it again."
            )
        return File(name, path)
