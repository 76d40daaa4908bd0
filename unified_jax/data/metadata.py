"""Folders whose files a table names: metadata.csv, .jsonl or .parquet, as Hugging Face's image and audio folders.

`file_name` names a file relative to the table's folder and is the field of its kind; NAME_file_name names another one,
the field NAME. A table may lie in the folder, or in each folder of a split.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.data.base import Source
from unified_jax.data.kinds import KINDS
from unified_jax.data.listing import Listing
from unified_jax.data.located import Labelled
from unified_jax.data.rows import ArrowRows, RowSource
from unified_jax.data.splits import by_folder, part_of, pick_split, within
from unified_jax.data.table import cells_of, check_columns, read_table_file
from unified_jax.errors import UserError

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
NAME, NAMES = "file_name", "_file_name"


def metadata_part(data: Labelled, listing: Listing, split: str, wanted: dict[str, str]) -> Source:
    """The records that the tables of a folder name. UserError for a table without names, or an unknown column."""
    table, columns = metadata_columns(listing)
    check_columns(data.name, wanted, tuple(columns))
    sides, there = by_folder([str(name).split("/")[0] for name in table.column(NAME).to_pylist()])
    group, side = pick_split(data.name, split, there, data.test)
    rows = np.flatnonzero(within(sides, group))
    part = part_of(len(rows), side, data.test)
    found = ArrowRows(table, _digest(table, listing))
    named = {field: columns[word] for field, word in wanted.items()}
    cells = cells_of(named, table.schema, found, data.labels, lambda column: [table.column(column)])
    cells = tuple(replace(c, form="file") if c.column == NAME or c.column.endswith(NAMES) else c for c in cells)
    return RowSource(data.name, split, found, cells, listing.root, rows if part is None else rows[part])


def has_metadata(listing: Listing) -> bool:
    """Whether a table names the files of a folder."""
    return bool(_metadata(listing))


def _metadata(listing: Listing) -> list[int]:
    tables = np.flatnonzero(listing.of_suffixes((".csv", ".jsonl", ".parquet")))
    return [int(i) for i in tables if listing.file(int(i)) in METADATA]


def metadata_columns(listing: Listing) -> tuple[Any, dict[str, str]]:
    """(the table of a folder, field -> column): also the kind of the files, and `file`."""
    table = _tables(listing)
    columns = {name.removesuffix(NAMES): name for name in table.column_names if name.endswith(NAMES)}
    others = {name: name for name in table.column_names if name not in (NAME, *columns.values())}
    return table, {_kind_of(table): NAME} | columns | others


def _tables(listing: Listing) -> Any:
    """All tables of a folder as one; names of files relative to the folder."""
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are made when it is imported

    found, folders = [], {}
    for i in _metadata(listing):
        name = listing.name(i)
        table, folder = read_table_file(listing.root / name), name.rpartition("/")[0]
        if folder in folders:
            raise UserError(
                f"{str(listing.root / folder)!r} has two tables of its files, {folders[folder]} and {name}."
            )
        folders[folder] = name
        if NAME not in table.column_names:
            raise UserError(
                f"{str(listing.root / name)!r} has no column {NAME!r}, which names the files; it has "
                f"{', '.join(table.column_names)}."
            )
        for place, column in enumerate(table.column_names):
            if folder and (column == NAME or column.endswith(NAMES)):
                joined = pc.binary_join_element_wise(folder, pc.cast(table.column(column), pa.string()), "/")
                table = table.set_column(place, column, joined)
        found.append(table)
    try:
        return pa.concat_tables(found, promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        raise UserError(f"The tables {METADATA[0]} below {str(listing.root)!r} differ: {error}.") from None


def _kind_of(table: Any) -> str:
    """The kind of the first file."""
    first = str(table.column(NAME)[0].as_py()) if len(table) else ""
    suffix = Path(first).suffix.lower()
    return next((kind for kind, suffixes in KINDS.items() if suffix in suffixes), "file")


def _digest(table: Any, listing: Listing) -> str:
    """Of the table, and of the names and sizes of all files of its folder."""
    import pyarrow as pa

    made = hashlib.blake2b(digest_size=16)
    with pa.BufferOutputStream() as out:
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
        made.update(out.getvalue())
    made.update(listing.digest(np.arange(len(listing))).encode())
    return made.hexdigest()
