r"""The files below a folder as packed columns: under 100 bytes a file, mapped into memory, in the order of their names.

    folder  int32    index into the list of folders
    stem    bytes    the name up to its last dot
    suffix  int16    index into the list of suffixes, in lower case
    case    bytes    the suffix as it is written, where it is not in lower case
    size    int64    bytes; -1 for a link to nothing

Hidden files are left out, and the folders of runs (`RUN`), so that a run among its own data adds nothing to them; links
are followed, a folder that was seen is not entered twice. A list that took long is kept in the user's cache folder, and
used again while no folder that was looked at has changed.
"""

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from unified_jax.errors import UserError
from unified_jax.modalities.reading import first_line

KEPT = 20_000
"""A list of as many files is kept."""
FORMAT = 2
RUN = {"config.json", "environment.json"}
"""A folder below the root that holds these is that of a run."""


@dataclass(frozen=True)
class Listing:
    """The files below a folder. Columns are Arrow arrays: names of a million files are not a million objects."""

    root: Path
    folders: tuple[str, ...]
    """Relative to the root, "" itself, with "/" between; bytes that are no UTF-8 as Python escapes them."""
    suffixes: tuple[str, ...]
    """In lower case, with the dot; "" for none."""
    table: Any
    """The columns of the module docstring."""

    def __len__(self) -> int:
        return self.table.num_rows

    def column(self, name: str) -> Int[np.ndarray, "k"]:
        """A column of whole numbers."""
        return self.table.column(name).combine_chunks().to_numpy(zero_copy_only=False)

    def of_suffixes(self, suffixes: tuple[str, ...]) -> Bool[np.ndarray, "k"]:
        """Which files have one of these suffixes."""
        chosen = np.array([suffix in suffixes for suffix in self.suffixes], bool)
        return chosen[self.column("suffix")] if len(self) else np.zeros(0, bool)

    def name(self, index: int) -> str:
        """The path of a file relative to the root."""
        folder = self.folders[self.table.column("folder")[index].as_py()]
        return f"{folder}/{self.file(index)}".lstrip("/")

    def file(self, index: int) -> str:
        """The name of a file in its folder."""
        written = self.table.column("case")[index].as_py()
        suffix = os.fsdecode(written) if written else self.suffixes[self.table.column("suffix")[index].as_py()]
        return self.stem(index) + suffix

    def stem(self, index: int) -> str:
        """The name of a file without its suffix."""
        return os.fsdecode(self.table.column("stem")[index].as_py())

    def digest(self, rows: Int[np.ndarray, "k"]) -> str:
        """Of the names and sizes of these files."""
        made = hashlib.blake2b(digest_size=16)
        chosen = self.table.take(rows).combine_chunks()
        names = "\0".join(self.folders)
        made.update(json.dumps([names, self.suffixes, len(rows)]).encode(errors="surrogateescape"))
        for name in ("folder", "suffix", "size"):
            made.update(np.ascontiguousarray(chosen.column(name).to_numpy()).tobytes())
        for name in ("stem", "case"):
            made.update(joined(chosen.column(name)))
        return made.hexdigest()


def joined(column: Any) -> bytes:
    """The values of a column of bytes, one after the other, with their lengths."""
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are made when it is imported

    lengths = pc.fill_null(pc.binary_length(column), 0)
    if isinstance(lengths, pa.ChunkedArray):
        lengths = lengths.combine_chunks()
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    text = pc.binary_join(pa.ListArray.from_arrays([0, len(whole)], pc.fill_null(whole.cast(pa.binary()), b"")), b"")
    return lengths.to_numpy(zero_copy_only=False).tobytes() + (text[0].as_py() or b"")


def list_files(root: Path) -> Listing:
    """The files below a folder. Raises UserError where it is none, or cannot be read."""
    try:
        whole = root.expanduser()
        if not whole.is_dir():
            state = "is a file" if whole.exists() else "does not exist"
            raise UserError(f"The folder {str(root)!r} {state}; expected a folder of files.")
        kept = kept_path(whole)
        if found := _read(whole, kept):
            return found
        listing, looked = _scan(whole)
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ has no home folder
        raise UserError(f"The folder {str(root)!r} cannot be read: {first_line(error)}.") from None
    if len(listing) >= KEPT:
        _keep(kept, listing, looked)
    return listing


def forget(root: Path) -> None:
    """Drops the list of a folder that is no longer true, so that the next start makes another."""
    with contextlib.suppress(OSError):
        kept_path(root.expanduser()).unlink(missing_ok=True)


def kept_path(root: Path, suffix: str = ".arrow") -> Path:
    """Where the list of a folder is kept: `unified_jax/lists/` in the user's cache folder."""
    digest = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=12).hexdigest()
    return user_cache() / "lists" / f"{digest}{suffix}"


def user_cache() -> Path:
    """`unified_jax/` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "unified_jax"


def _scan(root: Path) -> tuple[Listing, dict[str, int]]:
    """(the files, the time of change of every folder that was looked at)."""
    import pyarrow as pa

    folders: list[str] = []
    looked: dict[str, int] = {}
    suffixes: dict[str, int] = {}
    rows: tuple[list[Any], ...] = ([], [], [], [], [])
    seen: set[tuple[int, int]] = set()
    todo = [""]
    while todo:
        folder = todo.pop()
        path = root / folder
        state = path.stat()
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        looked[folder] = state.st_mtime_ns
        with os.scandir(path) as entries:
            found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: os.fsencode(e.name))
        if folder and {e.name for e in found} >= RUN:
            continue
        folders.append(folder)
        todo += [f"{folder}/{e.name}".lstrip("/") for e in found[::-1] if e.is_dir()]
        for entry in found:
            size = _size(entry)
            if size is not None:
                stem, suffix = os.path.splitext(entry.name)
                values = (len(folders) - 1, os.fsencode(stem), suffixes.setdefault(suffix.lower(), len(suffixes)))
                case = os.fsencode(suffix) if suffix != suffix.lower() else None
                for column, value in zip(rows, (*values, case, size), strict=True):
                    column.append(value)
    kinds = (pa.int32(), pa.binary(), pa.int16(), pa.binary(), pa.int64())
    names = ("folder", "stem", "suffix", "case", "size")
    folders, rows[0][:] = _filled(folders, rows[0])
    table = pa.table({n: pa.array(v, k) for n, v, k in zip(names, rows, kinds, strict=True)})
    return Listing(root, tuple(folders), tuple(suffixes), table), looked


def _filled(folders: list[str], places: list[int]) -> tuple[list[str], list[int]]:
    """(the folders with a file in or below them, the place in that list of each file's folder)."""
    used = {""}
    for place in set(places):
        parts = folders[place].split("/")
        used |= {"/".join(parts[:n]) for n in range(1, len(parts) + 1)}
    kept = [folder for folder in folders if folder in used]
    moved = {folder: n for n, folder in enumerate(kept)}
    return kept, [moved[folders[place]] for place in places]


def _size(entry: "os.DirEntry[str]") -> int | None:
    """Bytes of a file, -1 for a link to nothing, None for a folder or anything else."""
    try:
        if entry.is_file():
            return entry.stat().st_size
        return -1 if entry.is_symlink() and not os.path.exists(entry.path) else None
    except OSError:
        return -1


def _keep(path: Path, listing: Listing, looked: dict[str, int]) -> None:
    """Writes a list where it is found again; a cache that cannot be written is no fault."""
    import pyarrow as pa

    head = {"format": FORMAT, "folders": listing.folders, "suffixes": listing.suffixes, "looked": looked}
    table = listing.table.replace_schema_metadata({b"listing": json.dumps(head).encode()})
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)


def _read(root: Path, path: Path) -> Listing | None:
    """The list that was kept, where it is still true."""
    import pyarrow as pa

    if not path.is_file():
        return None
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        head = json.loads(table.schema.metadata[b"listing"])
        folders = tuple(head["folders"])
        looked = head["looked"] if head["format"] == FORMAT else {}
        if not looked or any((root / f).stat().st_mtime_ns != when for f, when in looked.items()):
            return None
        return Listing(root, folders, tuple(head["suffixes"]), table)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None
