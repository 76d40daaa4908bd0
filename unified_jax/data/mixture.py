"""A weighted mixture of data sets with the same fields."""

from dataclasses import dataclass

from unified_jax.config import Open, check_finite
from unified_jax.data.base import DataSet, Source, open_parts


@dataclass(frozen=True)
class Part:
    """A data set and its share of a mixture."""

    data: Open[DataSet]
    """The data set."""
    weight: float = 1.0
    """Relative share of the examples."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.weight <= 0:
            raise ValueError(f"The weight of {self.data.name!r} in a mixture must be positive, found {self.weight}.")


@dataclass(frozen=True)
class Mixture:
    """Samples from several data sets in fixed proportions; each is shuffled on its own and repeats when exhausted."""

    sets: tuple[Part, ...]
    """The data sets with their weights."""

    def __post_init__(self) -> None:
        if not self.sets:
            raise ValueError("A mixture needs at least one data set.")

    @property
    def name(self) -> str:
        """The names of the data sets, joined."""
        return " + ".join(part.data.name for part in self.sets)

    def parts(self, split: str, fields: tuple[str, ...]) -> tuple[tuple[float, str, Source], ...]:
        """The weighted parts of every data set."""
        return tuple(
            (part.weight * weight, name, source)
            for part in self.sets
            for weight, name, source in open_parts(part.data, split, fields)
        )
