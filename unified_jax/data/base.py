"""The interface of data sets. Implementations: `World`, `Tfds`, `Mixture`, `CachedFeatures`, and what they open."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from unified_jax.errors import UserError
from unified_jax.modalities.base import Modality


@runtime_checkable
class Source(Protocol):
    """A list of raw examples with random access; `source[i]` is a pure function of i. Safe to read from threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


@runtime_checkable
class Named(Protocol):
    """A source that knows the names of its classes; runs keep them in names.json."""

    @property
    def class_names(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Pairs (field, names in the order of the classes)."""
        ...


@runtime_checkable
class DataSet(Protocol):
    """A named data set of one or more weighted sources.

    Frozen and hashable; it opens no file before `parts` is called. An optional class variable `places` names the fields
    that locate the examples: they may change when a run is resumed.
    """

    @property
    def name(self) -> str:
        """Its name in error messages."""
        ...

    def parts(self, split: str, fields: tuple[str, ...]) -> tuple[tuple[float, str, Source], ...]:
        """(weight, name, source) per part, with these fields. Raises UserError naming the data set and its fields."""
        ...


def prepare_example(
    name: str, index: int, raw: dict[str, Any], modalities: Iterable[Modality]
) -> dict[str, np.ndarray]:
    """One raw example as the arrays of a batch. Raises UserError naming data set, record and field."""
    example = {}
    for modality in modalities:
        if modality.name not in raw:
            raise UserError(
                f"Data set {name!r}, record {index}: field {modality.name!r} is missing; it has {sorted(raw)}."
            )
        try:
            example[modality.name] = modality.prepare(raw[modality.name])
        except ValueError as error:
            raise UserError(f"Data set {name!r}, record {index}, field {modality.name!r}: {error}.") from None
    return example
