"""The members of tars: which record each belongs to, and where it begins."""

import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from unified_jax.data.kinds import split_in
from unified_jax.data.listing import kept_path
from unified_jax.errors import RunError, UserError
from unified_jax.modalities.reading import File, first_line

FORMAT = 1


def tar_files(path: str) -> dict[str, tuple[Path, ...]]:
    """The tars of each split at a path. UserError where there are none, or one is compressed."""
    try:
        root = Path(path).expanduser()
        found = [root] if root.is_file() else sorted(p for p in root.rglob("*") if ".tar" in p.suffixes[-2:])
    except (OSError, RuntimeError) as error:
        raise UserError(f"The tars {path!r} cannot be read: {first_line(error)}.") from None
    found = [p for p in found if not p.name.endswith(".index") and not p.name.startswith(".")]
    for one in found:
        if one.suffix != ".tar":
            raise UserError(f"{str(one)!r} is compressed, which allows no random access; unpack it to a .tar.")
    if not found:
        raise UserError(f"{path!r} holds no tars; expected files that end in .tar.")
    splits: dict[str, list[Path]] = {}
    for one in found:
        word = one.name if root.is_file() else one.relative_to(root).as_posix()
        splits.setdefault(split_in(word) or "train", []).append(one)
    return {split: tuple(files) for split, files in sorted(splits.items(), key=lambda item: item[0] != "train")}


@dataclass(frozen=True, eq=False)
class Index:
    """The members of some tars, record by record."""

    files: tuple[Path, ...]
    table: Any
    """Columns file, key, suffix, offset, size of every member."""
    starts: Int[np.ndarray, "k"]
    """First member of each record, and the number of all members."""

    def names(self, record: int) -> list[str]:
        """Suffixes of the members of a record."""
        return self.table.column("suffix").slice(int(self.starts[record]), self.count(record)).to_pylist()

    def count(self, record: int) -> int:
        """Members of a record."""
        return int(self.starts[record + 1] - self.starts[record])

    def read(self, member: int) -> File:
        """A member's content. RunError where its tar is gone or cut off."""
        cell = {name: self.table.column(name)[member].as_py() for name in ("file", "key", "suffix", "offset", "size")}
        path, name = self.files[cell["file"]], f"{os.fsdecode(cell['key'])}.{cell['suffix']}"
        try:
            with path.open("rb") as file:
                content = os.pread(file.fileno(), cell["size"], cell["offset"])
        except OSError as error:
            raise RunError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from None
        if len(content) < cell["size"]:
            raise RunError(f"{str(path)!r} is cut off within {name!r}; it changed since it was listed.")
        return File(name, stored=content)


def read_index(files: tuple[Path, ...]) -> Index:
    """The members of some tars. UserError for a tar that cannot be read, or is cut off."""
    import pyarrow as pa

    tables = [_members(path) for path in files]
    numbered = [
        table.append_column("file", pa.array(np.full(len(table), i, np.int32))) for i, table in enumerate(tables)
    ]
    whole = pa.concat_tables(numbered)
    starts = [np.zeros(0, np.int64)]
    before = 0
    for table in tables:
        heads = table.column("head").combine_chunks().to_numpy(zero_copy_only=False)
        starts.append(np.flatnonzero(heads) + before)
        before += len(table)
    return Index(files, whole, np.append(np.concatenate(starts), before))


def _members(path: Path) -> Any:
    """The members of a tar: those of its index, which is written where it is missing or old."""
    import pyarrow as pa

    try:
        state = path.stat()
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from None
    stamp = json.dumps([FORMAT, state.st_size, state.st_mtime_ns]).encode()
    places = (path.with_name(path.name + ".index"), kept_path(path, ".tar.index"))
    for place in places:
        try:
            table = pa.ipc.open_file(pa.memory_map(str(place))).read_all()
            if table.schema.metadata[b"tar"] == stamp:
                return table
        except (OSError, KeyError, TypeError, pa.ArrowException):
            continue
    table = scan_tar(path).replace_schema_metadata({b"tar": stamp})
    for place in places:
        temporary = place.with_name(f"{place.name}.{os.getpid()}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            os.replace(temporary, place)
            break
        except OSError:  # a folder that is read-only: the next place
            continue
    return table


def scan_tar(path: Path) -> Any:
    """Key, suffix, offset and size of the files in a tar, and whether a record begins there."""
    import pyarrow as pa

    columns: tuple[list[Any], ...] = ([], [], [], [], [])
    before, size = None, path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, file = member.name.rpartition("/")
                if not member.isfile() or member.issparse() or file.startswith("."):
                    continue
                if member.offset_data + member.size > size:
                    raise UserError(f"{str(path)!r} is cut off within {member.name!r}; copy it again.")
                stem, _, suffix = file.partition(".")
                key = os.fsencode(f"{folder}/{stem}".lstrip("/"))
                suffix = os.fsencode(suffix).decode(errors="replace")  # a name need not be UTF-8
                values = (key, suffix, member.offset_data, member.size, key != before)
                for column, value in zip(columns, values, strict=True):
                    column.append(value)
                before = key
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all of them otherwise
        with path.open("rb") as file:
            file.seek(-min(size, 512), os.SEEK_END)
            if file.read(512).strip(b"\0"):
                raise UserError(f"{str(path)!r} is cut off: it has no end mark; copy it again.")
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{str(path)!r} cannot be read as a tar: {first_line(error)}.") from None
    kinds = (pa.binary(), pa.string(), pa.int64(), pa.int64(), pa.bool_())
    names = ("key", "suffix", "offset", "size", "head")
    return pa.table({n: pa.array(v, k) for n, v, k in zip(names, columns, kinds, strict=True)})
