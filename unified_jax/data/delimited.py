"""Tables as text, one row a line (CSV, TSV), and what a reader of them passes over without a word."""

from pathlib import Path
from typing import Any


def read_delimited(path: Path, comma: str) -> Any:
    """The file as an Arrow table; its first line names the columns.

    Raises ValueError for a quote that is not closed and for text that is not UTF-8, ArrowException and OSError for
    what pyarrow cannot read.
    """
    import pyarrow as pa
    from pyarrow import csv

    _check_quotes(path, comma.encode())
    table = csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=comma, newlines_in_values=True))
    if any(pa.types.is_binary(kind) for kind in table.schema.types):
        _check_utf8(path)
    return table


def _check_quotes(path: Path, comma: bytes) -> None:
    """Raises ValueError for a quote that is not closed: the reader would take all lines after it for one cell."""
    opened = 0  # the line of the quote that is open; 0: none
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if opened or b'"' in line:
                opened = (opened or number) if _ends_quoted(line, bool(opened), comma) else 0
    if opened:
        raise ValueError(
            f'line {opened} opens a quote that is not closed before the end of the file; close it, or write "" for a '
            "quote inside a quoted cell"
        )


def _ends_quoted(line: bytes, inside: bool, comma: bytes) -> bool:
    """Whether a line that begins inside a quoted cell, or not, ends inside one. A quote opens at a cell's start."""
    at = 0
    while True:
        if inside:
            end = line.find(b'"', at)
            if end < 0:
                return True
            if line[end + 1 : end + 2] == b'"':
                at = end + 2
                continue
            inside, at = False, end + 1
        elif line[at : at + 1] == b'"':
            inside, at = True, at + 1
            continue
        at = line.find(comma, at) + 1
        if not at:
            return False


def _check_utf8(path: Path) -> None:
    """Raises ValueError for a line in another encoding: the reader would take its column for the bytes of files."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                raise ValueError(f"line {number} is not UTF-8; save the table as UTF-8") from None
