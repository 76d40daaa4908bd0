"""What all data sets at a path share: where it is, how names are mapped, how much is held out."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from unified_jax.config import check_finite
from unified_jax.data.splits import check_share


@dataclass(frozen=True)
class Located:
    """The base of data sets at a path; each adds `splits`, `columns` and `parts`."""

    path: str = ""
    """A folder or file."""
    rename: tuple[tuple[str, str], ...] = ()
    """Pairs (field of the model, column) where the names differ."""
    test: float = 0.05
    """Share of the records that is the split test, where the set has none."""
    places: ClassVar[tuple[str, ...]] = ("path",)
    """See `data.base.DataSet`."""

    def __post_init__(self) -> None:
        check_finite(self)
        check_share(self)

    @property
    def name(self) -> str:
        """The file's or folder's name."""
        return Path(self.path).name or type(self).__name__.lower()

    def wanted(self, fields: tuple[str, ...]) -> dict[str, str]:
        """Field -> column."""
        return {field: dict(self.rename).get(field, field) for field in fields}


@dataclass(frozen=True)
class Labelled(Located):
    """The same, of sets whose columns may hold class names."""

    labels: tuple[str, ...] = ("label",)
    """Fields that are classes: texts in them become indices into their sorted values."""
