"""Tables: Parquet, Arrow, CSV and JSON Lines, one file or a folder of them; sets that `datasets` saved on disk.

Files belong to the split that their name or folder names (`train-00000-of-00002.parquet`, `test/part.csv`); where
there is no split test, a share of the rows is held out (`splits`). Class names come from the set, or are the values of
a column in order.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified_jax.data.base import Source
from unified_jax.data.delimited import read_delimited
from unified_jax.data.kinds import MEDIA, split_in
from unified_jax.data.located import Labelled
from unified_jax.data.rows import ArrowRows, Cell, Rows, RowSource, parquet_rows, readable_columns
from unified_jax.data.splits import known_splits, part_of, pick_split
from unified_jax.errors import UserError
from unified_jax.modalities.reading import first_line

FORMATS = (".parquet", ".arrow", ".feather", ".csv", ".tsv", ".jsonl", ".ndjson")
"""Suffixes of tables; those of one set have the same one."""
BINARY = (".parquet", ".arrow", ".feather")
"""Those that are too large to be compared by more than names and sizes."""


@dataclass(frozen=True)
class Table(Labelled):
    """The rows of a table as records."""

    def columns(self, split: str) -> tuple[str, ...]:
        """Names of the columns that can be fields."""
        return readable_columns(_open(next(iter(self._files().values())))[1])

    def splits(self) -> tuple[str, ...]:
        """The splits that its files have, and test where a share is held out."""
        return known_splits(self._files(), self.test)

    def parts(self, split: str, fields: tuple[str, ...]) -> tuple[tuple[float, str, Source], ...]:
        """The single part of this data set. UserError for an unknown file, split or column."""
        files = self._files()
        group, side = pick_split(self.name, split, tuple(files), self.test)
        rows, schema = _open(files[group])
        wanted = self.wanted(fields)
        check_columns(self.name, wanted, tuple(schema.names))
        root = Path(self.path).expanduser()
        base = root if root.is_dir() else root.parent
        cells = cells_of(wanted, schema, rows, self.labels, lambda c: [_whole(group, c) for group in files.values()])
        chosen = part_of(len(rows), side, self.test)
        return ((1.0, self.name, RowSource(self.name, split, rows, cells, base, chosen)),)

    def _files(self) -> dict[str, tuple[Path, ...]]:
        """The files of each split, in order."""
        root = Path(self.path).expanduser()
        try:
            found = saved_files(root) or table_files(root)
        except OSError as error:
            raise UserError(f"Data set {self.path!r} cannot be read: {first_line(error)}.") from None
        if not found:
            raise UserError(f"{self.path!r} holds no table; expected files that end in {', '.join(FORMATS)}.")
        return found


def cells_of(
    wanted: dict[str, str], schema: Any, rows: Rows, labels: tuple[str, ...], whole: Callable[[str], list[Any]]
) -> tuple[Cell, ...]:
    """How the columns of a table become fields; `whole` gives a column of every split, whose texts are class names."""
    known, cells = class_names(schema), []
    first = rows.row(0, tuple(wanted.values())) if len(rows) else {}
    for field, column in wanted.items():
        kind = schema.field(column).type
        if column in known or field in labels:
            names = known.get(column) or (sorted_texts(whole(column)) if _is_text(kind) else ())
            cells.append(Cell(field, column, "class", names))
        else:
            cells.append(Cell(field, column, "file" if holds_files(kind, first.get(column)) else "plain"))
    return tuple(cells)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def sorted_texts(columns: list[Any]) -> tuple[str, ...]:
    """The different texts of some columns, sorted."""
    return tuple(sorted({value for column in columns for value in column.unique().to_pylist() if value}))


def holds_files(kind: Any, value: Any) -> bool:
    """Whether a column holds files: bytes, Hugging Face's struct, or names that end as those of media."""
    import pyarrow as pa

    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    if pa.types.is_struct(kind):
        return {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}
    return isinstance(value, str) and value.lower().endswith(MEDIA) and len(value.split("\n")) == 1


def check_columns(name: str, wanted: dict[str, str], columns: tuple[str, ...]) -> None:
    """Raises UserError for a field whose column is not there."""
    for field, column in wanted.items():
        if column not in columns:
            raise UserError(
                f"Data set {name!r}: column {column!r} (for field {field!r}) is missing; it has {', '.join(columns)}. "
                "Map names with --data.rename (`data`: --rename) FIELD COLUMN."
            )


def table_files(root: Path) -> dict[str, tuple[Path, ...]]:
    """The table files of each split at a path, in the order of their names. UserError for files of two formats."""
    if root.is_file():
        files = [root] if root.suffix.lower() in FORMATS else []
    else:
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in FORMATS and not _hidden(p, root))
    if len(kinds := sorted({p.suffix.lower() for p in files})) > 1:
        raise UserError(f"{str(root)!r} holds tables of several formats ({', '.join(kinds)}); name one of the files.")
    found: dict[str, list[Path]] = {}
    for path in files:
        word = path.name if root.is_file() else path.relative_to(root).as_posix()
        found.setdefault(split_in(word) or "train", []).append(path)
    return {split: tuple(paths) for split, paths in sorted(found.items(), key=lambda item: item[0] != "train")}


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def saved_files(root: Path) -> dict[str, tuple[Path, ...]]:
    """The Arrow files of each split of a set that `datasets` saved; {} for any other folder."""
    if not root.is_dir():
        return {}
    splits = _json(root / "dataset_dict.json").get("splits")
    folders = {str(split): root / str(split) for split in splits} if isinstance(splits, list) else {"train": root}
    found = {}
    for split, folder in folders.items():
        listed = _json(folder / "state.json").get("_data_files")
        if isinstance(listed, list):
            found[split] = tuple(folder / str(one["filename"]) for one in listed)
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def class_names(schema: Any) -> dict[str, tuple[str, ...]]:
    """Column -> names of its classes, as Hugging Face writes them into a schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {
        column: tuple(map(str, one["names"]))
        for column, one in features.items()
        if isinstance(one, dict) and isinstance(one.get("names"), list) and one["names"]
    }


def _open(files: tuple[Path, ...]) -> tuple[Rows, Any]:
    """(the rows of some files of one format, their schema)."""
    if files[0].suffix.lower() == ".parquet":
        return parquet_rows(files)
    table = _arrow(files)
    made = hashlib.blake2b(digest_size=16)
    for path in files:
        made.update(f"{path.name} {path.stat().st_size}\n".encode())
        if path.suffix.lower() not in BINARY:
            made.update(path.read_bytes())
    return ArrowRows(table, made.hexdigest()), table.schema


def _whole(files: tuple[Path, ...], column: str) -> Any:
    import pyarrow.parquet as pq

    if files[0].suffix.lower() == ".parquet":
        import pyarrow as pa

        return pa.concat_tables([pq.read_table(path, columns=[column]) for path in files]).column(column)
    return _arrow(files).column(column)


def _arrow(files: tuple[Path, ...]) -> Any:
    """Files of one format as one table. UserError for one that cannot be read, or has other columns."""
    import pyarrow as pa

    tables = [read_table_file(path) for path in files]
    for path, table in zip(files, tables, strict=True):
        if table.column_names != tables[0].column_names:
            raise UserError(
                f"{str(path)!r} has the columns {table.column_names}, {str(files[0])!r} has {tables[0].column_names}."
            )
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise UserError(f"The columns of {str(files[0])!r} and its neighbours differ: {first_line(error)}.") from None


BLOCK = 1 << 26
"""Bytes of JSON Lines that are read at a time."""


def read_table_file(path: Path) -> Any:
    """A table of any of `FORMATS`, Arrow files mapped into memory. UserError for a file that cannot be read."""
    import pyarrow as pa
    from pyarrow import json as json_table, parquet

    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".tsv"):
            return read_delimited(path, "\t" if suffix == ".tsv" else ",")
        if suffix in (".jsonl", ".ndjson"):
            large = json_table.ReadOptions(block_size=BLOCK)  # a line must lie within a block
            return json_table.read_json(path, large, json_table.ParseOptions(newlines_in_values=False))
        if suffix == ".parquet":
            return parquet.read_table(path)
        mapped = pa.memory_map(str(path))
        try:
            return pa.ipc.open_file(mapped).read_all()
        except pa.ArrowInvalid:  # a stream, as `datasets` writes it
            return pa.ipc.open_stream(mapped).read_all()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{str(path)!r} cannot be read as a table: {first_line(error)}.") from None
