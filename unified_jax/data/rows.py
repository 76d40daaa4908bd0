"""Rows of Arrow tables and Parquet files as records: a `Cell` says how a column becomes a field.

Parquet is read by row groups on demand; the last ones stay in memory. Texts, numbers and lists become Python and NumPy
values, files (a name, bytes, or the struct of bytes and path that Hugging Face writes) a `File`, class names an index.
"""

import bisect
import collections
import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from unified_jax.errors import RunError, UserError
from unified_jax.modalities.reading import File, first_line

MOST_BYTES = 512 << 20
"""Bytes of row groups that stay in memory; a greater one is kept alone."""

Form = Literal["plain", "file", "class"]


@dataclass(frozen=True)
class Cell:
    """A field of the records, and the column it comes from."""

    field: str
    column: str
    form: Form = "plain"
    names: tuple[str, ...] = ()
    """Of the classes."""


@runtime_checkable
class Rows(Protocol):
    """Rows with random access, safe to read from threads."""

    def __len__(self) -> int: ...

    def row(self, index: int, columns: tuple[str, ...]) -> dict[str, Any]:
        """Some columns of a row. RunError where it cannot be read."""
        ...

    @property
    def digest(self) -> str:
        """Of what the rows are read from, wherever it lies."""
        ...


@dataclass(frozen=True, eq=False)
class RowSource:
    """The records of a split: some rows, in this order."""

    name: str
    split: str
    rows: Rows
    cells: tuple[Cell, ...]
    base: Path = Path()
    """What names of files are relative to."""
    chosen: Int[np.ndarray, "k"] | None = None
    """Indices into the rows; None: all."""
    light: ClassVar[bool] = True
    """See `texts.Light`."""

    def __len__(self) -> int:
        return len(self.rows) if self.chosen is None else len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record `index`. IndexError outside; UserError for a cell without a value; RunError for an unreadable row."""
        if not 0 <= index < len(self):
            raise IndexError(f"Data set {self.name!r} has {len(self)} records; found the index {index}.")
        place = index if self.chosen is None else int(self.chosen[index])
        values = self.rows.row(place, tuple(cell.column for cell in self.cells))
        try:
            return {cell.field: self._value(cell, values[cell.column], place) for cell in self.cells}
        except ValueError as error:
            where = f"record {index} (row {place} of split {self.split!r})"
            raise UserError(f"Data set {self.name!r}, {where}: {error}.") from None

    @property
    def class_names(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """See `data.base.Named`."""
        return tuple((cell.field, cell.names) for cell in self.cells if cell.names)

    @property
    def digest(self) -> str:
        """See `data.base.Recorded`."""
        count = "all" if self.chosen is None else hashlib.blake2b(self.chosen.tobytes(), digest_size=8).hexdigest()
        return f"{self.rows.digest}-{count}"

    def _value(self, cell: Cell, value: Any, place: int) -> Any:
        if value is None or (cell.form != "plain" and value == ""):
            raise ValueError(f"column {cell.column!r} holds no value")
        if cell.form == "file":
            return file_of(value, f"{cell.column} of row {place}", self.base)
        if cell.form == "class" and cell.names:
            return _class_of(cell, value)
        if isinstance(value, list):
            return np.asarray(value)
        return value


def readable_columns(schema: Any) -> tuple[str, ...]:
    """The columns that can be fields: not those without any value, and no dates, durations or decimals."""
    import pyarrow as pa

    kinds = pa.types
    others = (kinds.is_null, kinds.is_temporal, kinds.is_decimal, kinds.is_map, kinds.is_union)
    return tuple(column.name for column in schema if not any(is_one(column.type) for is_one in others))


def file_of(value: Any, called: str, base: Path) -> File:
    """A cell as a file: a name relative to `base`, its bytes, or {"bytes", "path"}. Raises ValueError for others."""
    if isinstance(value, dict) and {"bytes", "path"} & set(value):
        if value.get("bytes") is not None:
            return File(str(value.get("path") or called), stored=value["bytes"])
        value = value.get("path")
    if isinstance(value, bytes):
        return File(called, stored=value)
    if isinstance(value, str) and value:
        return File(value, base / value)
    raise ValueError(f"expected the name or the bytes of a file, found {type(value).__name__}")


def _class_of(cell: Cell, value: Any) -> int:
    if isinstance(value, str):
        if value not in cell.names:
            raise ValueError(f"expected one of {', '.join(cell.names[:8])} in column {cell.column!r}, found {value!r}")
        return cell.names.index(value)
    if not isinstance(value, int) or not 0 <= value < len(cell.names):
        raise ValueError(f"expected a class in 0 .. {len(cell.names) - 1} in column {cell.column!r}, found {value!r}")
    return value


@dataclass(frozen=True, eq=False)
class ArrowRows:
    """The rows of a table in memory, or mapped into it."""

    table: Any
    digest: str = ""

    def __len__(self) -> int:
        return self.table.num_rows

    def row(self, index: int, columns: tuple[str, ...]) -> dict[str, Any]:
        """See `Rows`."""
        return {name: self.table.column(name)[index].as_py() for name in columns}


@dataclass(frozen=True, eq=False)
class ParquetRows:
    """The rows of Parquet files, one after the other."""

    files: tuple[Path, ...]
    starts: tuple[int, ...]
    """First row of each row group of all files, and the number of all rows."""
    groups: tuple[tuple[int, int], ...]
    """(file, row group) of each."""
    digest: str
    kept: "Kept" = field(default_factory=lambda: Kept())

    def __len__(self) -> int:
        return self.starts[-1]

    def row(self, index: int, columns: tuple[str, ...]) -> dict[str, Any]:
        """See `Rows`."""
        place = bisect.bisect_right(self.starts, index) - 1
        wanted = tuple(sorted(set(columns)))
        table = self.kept.get((place, wanted), lambda: self._group(place, wanted))
        return {name: table.column(name)[index - self.starts[place]].as_py() for name in columns}

    def _group(self, place: int, columns: tuple[str, ...]) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        number, group = self.groups[place]
        try:
            with pq.ParquetFile(self.files[number]) as file:
                return file.read_row_group(group, columns=list(columns), use_threads=False)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise RunError(
                f"{str(self.files[number])!r}, row group {group}, cannot be read: {first_line(error)}."
            ) from None


class Kept:
    """The values used last, up to a number of bytes; `get` may make one twice, in two threads."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most, self.bytes = most, 0
        self.values: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: Any, make: Any) -> Any:
        """The value of a key, made where it is not kept."""
        with self.lock:
            if key in self.values:
                self.values.move_to_end(key)
                return self.values[key]
        value = make()
        with self.lock:
            if key not in self.values:
                self.values[key] = value
                self.bytes += value.nbytes
            while self.bytes > self.most and len(self.values) > 1:
                self.bytes -= self.values.popitem(last=False)[1].nbytes
        return value


def parquet_rows(files: tuple[Path, ...]) -> tuple[ParquetRows, Any]:
    """(rows of Parquet files, their schema). Raises UserError for a file that cannot be read, or has other columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    starts, groups, schema, made = [0], [], None, hashlib.blake2b(digest_size=16)
    for number, path in enumerate(files):
        try:
            found = pq.read_metadata(path)
            here = found.schema.to_arrow_schema()
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(f"{str(path)!r} cannot be read as Parquet: {first_line(error)}.") from None
        if schema is not None and here.names != schema.names:
            raise UserError(f"{str(path)!r} has the columns {here.names}, {str(files[0])!r} has {schema.names}.")
        schema = schema or here
        for group in range(found.num_row_groups):
            rows = found.row_group(group)
            starts.append(starts[-1] + rows.num_rows)
            groups.append((number, group))
            made.update(f"{rows.num_rows} {rows.total_byte_size} ".encode())
        made.update(f"{path.name} {path.stat().st_size}\n".encode())
    return ParquetRows(files, tuple(starts), tuple(groups), made.hexdigest()), schema
