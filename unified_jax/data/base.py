"""The interface of data sets: `World`, files of many kinds (`Files`), `Tfds`, `Mixture`, `CachedFeatures`.

A record of a source holds, by field, arrays, numbers, texts, or a `File`, which the modality of the field decodes.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import numpy as np

from unified_jax.errors import RunError, UserError
from unified_jax.modalities.base import Modality
from unified_jax.modalities.reading import File


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
class Recorded(Protocol):
    """A source that is compared when a run resumes, by more than its length and first example."""

    @property
    def digest(self) -> str:
        """Of the names and sizes of its records, wherever they are."""
        ...


@runtime_checkable
class Accompanied(Protocol):
    """A `Recorded` source whose records have files beside them, which are compared as well."""

    @property
    def beside(self) -> str:
        """Digest of the names and sizes of the files beside the records; "" where none is asked for."""
        ...


@runtime_checkable
class Browsable(Protocol):
    """A data set that says what it holds: `unified-jax data show` and `build` need no recipe for it."""

    def splits(self) -> tuple[str, ...]:
        """Its splits. Raises UserError where it cannot be opened."""
        ...

    def columns(self, split: str) -> tuple[str, ...]:
        """Fields that may be asked for. Raises UserError where it cannot be opened."""
        ...


@runtime_checkable
class Varies(Protocol):
    """A modality, or a source, that varies a training record: random crops, flips and the like.

    `varies` says whether it does. The generator is that of the record's step and slot, the same for each of a record's
    fields: what draws in the same order varies alike.
    """

    @property
    def varies(self) -> bool:
        """Whether it varies records at all."""
        ...

    def vary(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The record, some of its fields varied; it may add fields."""
        ...


@runtime_checkable
class Derived(Protocol):
    """A modality whose value follows from another field of a record, so that no data set holds it (`Crop`).

    Where records vary, its `vary` comes before those of other modalities.
    """

    @property
    def image(self) -> Modality:
        """The modality of that field."""
        ...

    def derive(self, record: dict[str, Any]) -> Any:
        """The value of a record that was not varied. Raises ValueError."""
        ...


@runtime_checkable
class Reads(Protocol):
    """A modality that decodes files. Those that derive from `Continuous` do."""

    def read(self, file: File) -> Any:
        """The file as a raw example. Raises ValueError saying what was found and what was expected."""
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


def open_parts(data: DataSet, split: str, fields: tuple[str, ...]) -> tuple[tuple[float, str, Source], ...]:
    """`data.parts`. Raises UserError also where a user's own data set answers with something else than it declares."""
    found: Any = data.parts(split, fields)
    expected = "expected a tuple with (weight above 0, name, source) for each part, a source with len() and [index]"
    for part in found if isinstance(found, tuple | list) and found else (found,):
        triple = isinstance(part, tuple | list) and len(part) == 3
        if not triple or not isinstance(part[0], Real) or not part[0] > 0 or not isinstance(part[1], str):
            raise UserError(f"Data set {data.name!r}: {type(data).__name__}.parts gave {part!r:.200}; {expected}.")
        if not hasattr(part[2], "__len__") or not hasattr(part[2], "__getitem__"):
            raise UserError(f"Data set {data.name!r}: the source of {part[1]!r} is {part[2]!r:.200}; {expected}.")
    return tuple((float(weight), name, source) for weight, name, source in found)


def prepare_example(
    name: str, index: int, raw: dict[str, Any], modalities: Iterable[Modality]
) -> dict[str, np.ndarray]:
    """One raw example as the arrays of a batch. Raises UserError naming data set, record, field and file."""
    example: dict[str, np.ndarray] = {}
    for modality in modalities:
        if modality.name not in raw and isinstance(modality, Derived) and modality.image.name in raw:
            with told(name, index, modality.name, raw[modality.image.name]):
                value: Any = modality.prepare(modality.derive(raw))
                example[modality.name] = value
            continue
        if modality.name not in raw:
            raise UserError(
                f"Data set {name!r}, record {index}: field {modality.name!r} is missing; it has {sorted(raw)}."
            )
        with told(name, index, modality.name, raw[modality.name]):
            made: Any = modality.prepare(read_raw(modality, raw[modality.name]))
            example |= made if isinstance(made, dict) else {modality.name: made}
    return example


def fields_read(modalities: Iterable[Any]) -> tuple[str, ...]:
    """The fields that a data set must hold for these modalities."""
    return tuple(dict.fromkeys(m.image.name if isinstance(m, Derived) else m.name for m in modalities))


def derived_first(modalities: Iterable[Any]) -> tuple[Any, ...]:
    """The modalities in the order in which they vary a record. Raises UserError where mirroring would part them."""
    found = sorted(modalities, key=lambda m: not isinstance(m, Derived))
    sides = {m.name: m.sides for m in found if getattr(m, "flip", False)}
    if len(set(sides.values())) > 1:
        named = ", ".join(f"{name} {words}" for name, words in sides.items())
        raise UserError(f"Fields that are mirrored together need the same `sides`, found {named}.")
    return tuple(found)


def varying(owners: Iterable[Any]) -> tuple[Varies, ...]:
    """Those of a source and its modalities that vary records."""
    return tuple(owner for owner in owners if isinstance(owner, Varies) and owner.varies)


def vary_example(
    name: str, index: int, raw: dict[str, Any], owners: tuple[Varies, ...], key: np.ndarray
) -> dict[str, Any]:
    """The record as its owners vary it, one after the other. Raises UserError as `prepare_example`."""
    for owner in owners:
        field = getattr(owner, "name", "")
        with told(name, index, field, raw.get(field)):
            raw = owner.vary(raw, np.random.Generator(np.random.Philox(key=key)))
    return raw


def record_of(source: Source, name: str, index: int) -> dict[str, Any]:
    """A record of a source, also of one's own. Raises UserError naming data set and record for whatever it raises."""
    try:
        return source[index]
    except (UserError, RunError):
        raise
    except Exception as error:  # a source of one's own may raise anything
        why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise UserError(f"Data set {name!r}, record {index}: {why.rstrip('.')}.") from error


def read_raw(modality: Any, raw: Any) -> Any:
    """A file as the modality reads it, unless its `prepare` takes files; anything else unchanged. Raises ValueError."""
    if not isinstance(raw, File) or getattr(modality, "takes_files", False):
        return raw
    if not isinstance(modality, Reads):
        raise ValueError(f"expected a value, found a file, and {type(modality).__name__} has no method read(file)")
    return modality.read(raw)


@contextmanager
def told(name: str, index: int, field: str, raw: Any) -> Iterator[None]:
    """Turns a ValueError inside into the UserError that names data set, record, field and file."""
    try:
        yield
    except ValueError as error:
        file = f" ({raw.name})" if isinstance(raw, File) else ""
        where = f", field {field!r}" if field else ""
        raise UserError(f"Data set {name!r}, record {index}{file}{where}: {error}.") from None
