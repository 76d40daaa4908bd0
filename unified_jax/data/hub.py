"""A set of the Hugging Face hub by name, read through their `datasets` library, which the user installs.

It is the one data set that may fetch something, since it is asked for by name; what was fetched before is read from the
library's cache, also without a network.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from unified_jax.config import check_finite
from unified_jax.data.base import Source
from unified_jax.data.rows import ArrowRows, RowSource, readable_columns
from unified_jax.data.splits import check_share, known_splits, part_of, pick_split
from unified_jax.data.table import cells_of, check_columns
from unified_jax.errors import UserError
from unified_jax.modalities.reading import first_line


@dataclass(frozen=True)
class Hub:
    """A set of the hub; its pictures and sounds stay encoded until they are read."""

    set: str = ""
    """Its name, OWNER/NAME."""
    config: str = ""
    """The name of one of its configurations; empty: the only one."""
    rename: tuple[tuple[str, str], ...] = ()
    """Pairs (field of the model, column) where the names differ."""
    labels: tuple[str, ...] = ("label",)
    """Fields that are classes: texts in them become indices into their sorted values."""
    test: float = 0.05
    """Share of the rows that is the split test, where the set has none."""
    cache: str = ""
    """Folder of the library's cache; empty: its own."""
    places: ClassVar[tuple[str, ...]] = ("cache",)
    """See `data.base.DataSet`."""

    def __post_init__(self) -> None:
        check_finite(self)
        check_share(self)

    @property
    def name(self) -> str:
        """The set's name."""
        return self.set

    def splits(self) -> tuple[str, ...]:
        """The splits of the set, and test where a share is held out."""
        return known_splits(self._opened(), self.test)

    def columns(self, split: str) -> tuple[str, ...]:
        """Its columns that can be fields."""
        return readable_columns(next(iter(self._opened().values())).features.arrow_schema)

    def parts(self, split: str, fields: tuple[str, ...]) -> tuple[tuple[float, str, Source], ...]:
        """The single part of this data set. UserError without the library, for an unknown set, split or column."""
        found = self._opened()
        group, side = pick_split(self.name, split, tuple(found), self.test)
        one = found[group]
        wanted = {field: dict(self.rename).get(field, field) for field in fields}
        check_columns(self.name, wanted, tuple(one.column_names))
        rows = ArrowRows(one.data.table, _digest(one.data.table))
        tables = [other.data.table for other in found.values()]
        cells = cells_of(wanted, one.features.arrow_schema, rows, self.labels, lambda c: [t.column(c) for t in tables])
        chosen = part_of(len(rows), side, self.test)
        return ((1.0, self.name, RowSource(self.name, split, rows, cells, Path(), chosen)),)

    def _opened(self) -> dict[str, Any]:
        """The splits, as the library opens them."""
        try:
            import datasets  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UserError(
                f"The set {self.set!r} of the Hugging Face hub needs their library: pip install datasets."
            ) from None
        try:
            found: Any = datasets.load_dataset(self.set, self.config or None, cache_dir=self.cache or None)
        except Exception as error:  # the library raises any exception
            raise UserError(f"The set {self.set!r} cannot be opened by datasets: {first_line(error)}") from None
        return dict(found)


def _digest(table: Any) -> str:
    """Of the number of rows, their bytes and columns: the library's own fingerprint knows the time of a download."""
    told = f"{table.num_rows} {table.nbytes} {table.schema.names} {table.schema.types}"
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
