"""Plain values <-> dataclasses: a run's configuration as JSON (class path and fields, no pickle).

`to_plain` turns a graph of frozen dataclasses (Linen modules among them) into JSON values; `from_plain` builds it
again. Resolving a class path is the one lookup by name in the house: classes of this package, and of the modules that
`trust` admits, a user's own.

A field that takes any class of a protocol is annotated `Open[Protocol]`. Such a class is a frozen dataclass with the
protocol's members; what it lacks is named before anything is compiled.

What a run saved stays readable: a class that moved is found by its old path (`moved.MOVED`), a new field has a default
that means the old behaviour. `config_hash` therefore leaves out fields at their defaults and hashes the paths under
which classes were first saved.
"""

import dataclasses
import hashlib
import importlib
import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from unified_jax.errors import UserError
from unified_jax.moved import MOVED, old_path, present_path
from unified_jax.typing import Open, fits, hints_of, is_open, lacking, misfit

__all__ = [
    "MOVED", "Open", "Trust", "check_finite", "check_kinds", "check_open", "class_path", "config_hash", "fields_of",
    "fits", "from_plain", "hints_of", "lacking", "to_plain",
]  # fmt: skip

Trust = bool | Callable[[str], bool]
"""Whether classes outside this package may be imported: of any module, of none, or of those that a function admits."""

LINEN_FIELDS = ("parent", "name")
"""Fields Linen adds to a module; they are not configuration."""


def fields_of(value: Any) -> list[dataclasses.Field[Any]]:
    """The configuration fields of a dataclass instance: those its constructor takes, without Linen's own."""
    linen = "flax.linen" in {base.__module__.rsplit(".", 1)[0] for base in type(value).__mro__}
    return [f for f in dataclasses.fields(value) if f.init and not (linen and f.name in LINEN_FIELDS)]


def to_plain(value: Any) -> Any:
    """JSON values for a graph of dataclasses, tuples and plain values. Raises TypeError for anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {f.name: to_plain(getattr(value, f.name)) for f in fields_of(value)}
        return {"class": class_path(type(value)), **plain}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"A configuration holds plain values, tuples and dataclasses; found {type(value).__name__}.")


def class_path(cls: type) -> str:
    """Where a class is found: module and name."""
    return f"{cls.__module__}.{cls.__qualname__}"


def from_plain(plain: Any, trust: Trust = False) -> Any:
    """The graph that `to_plain` wrote. Raises UserError for an unknown class or field, or a value of another kind."""
    try:
        return _build(plain, trust)
    except RecursionError as error:
        raise UserError("The configuration is nested too deeply to be one of ours.") from error


def _build(plain: Any, trust: Trust) -> Any:
    if isinstance(plain, list):
        return tuple(_build(item, trust) for item in plain)
    if not isinstance(plain, dict):
        return plain
    cls = _resolve(plain.get("class", ""), trust)
    values = {name: _build(value, trust) for name, value in plain.items() if name != "class"}
    for wrong in _misfits(cls, values):
        raise UserError(f"The configuration of {cls.__name__} does not fit this version: {wrong}.")
    try:
        return cls(**values)
    except Exception as error:  # a constructor that trips over nonsense may raise anything
        raise UserError(f"The configuration of {cls.__name__} does not fit this version: {error}") from error


def check_kinds(value: Any) -> None:
    """Raises UserError where a field holds what its annotation does not name: `from_plain` would not take it back."""
    if isinstance(value, tuple):
        for item in value:
            check_kinds(item)
    elif dataclasses.is_dataclass(value):
        cls, values = type(value), {f.name: getattr(value, f.name) for f in fields_of(value)}
        for wrong in _misfits(cls, values):
            raise UserError(f"{cls.__name__}.{wrong}.")
        for name, item in values.items():
            if not (dataclasses.is_dataclass(item) or isinstance(item, tuple | bool | int | float | str | None)):
                raise UserError(
                    f"{cls.__name__}.{name} is a {type(item).__name__}; a configuration, which is written down, holds "
                    f"numbers, texts, tuples and dataclasses{_instead(item)}."
                )
            check_kinds(item)


def _instead(item: Any) -> str:
    """What to write in the place of a usual value that a configuration does not hold."""
    if isinstance(item, pathlib.PurePath):
        return ": write str(path)"
    return ": write a tuple" if isinstance(item, list | set) else ""


def check_open(value: Any) -> None:
    """Raises UserError where a field that takes any class of a protocol holds one that lacks something of it.

    For `__post_init__`, before a missing member is used.
    """
    for name, hint in hints_of(type(value)).items():
        if is_open(hint) and not fits(found := getattr(value, name), hint):
            raise UserError(f"{type(value).__name__}.{misfit(name, found, hint)}.")


def check_finite(value: Any) -> None:
    """Raises ValueError where a number of a dataclass is not finite, unless that is its field's default."""
    for problem in _not_finite(type(value), {f.name: getattr(value, f.name) for f in fields_of(value)}):
        raise ValueError(f"{type(value).__name__}.{problem}.")


def _not_finite(cls: type, values: dict[str, Any]) -> Iterator[str]:
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    for name, value in values.items():
        numbers = value if isinstance(value, tuple) else (value,)
        bad = [v for v in numbers if isinstance(v, float) and not math.isfinite(v)]
        if bad and value != defaults.get(name):
            yield f"{name} is {bad[0]}, expected a finite number"


def _misfits(cls: type, values: dict[str, Any]) -> Iterator[str]:
    yield from _not_finite(cls, values)
    for name, hint in hints_of(cls).items():
        if name in values and not fits(values[name], hint):
            yield misfit(name, values[name], hint)


def _resolve(path: Any, trust: Trust) -> Any:
    path = present_path(path) if isinstance(path, str) else ""
    module, _, name = path.rpartition(".")
    ours = module.split(".")[0] == "unified_jax"
    if not ours and not (module and (trust(module) if callable(trust) else trust)):
        raise UserError(
            f"The configuration names the class {path!r}, which is not of this package; pass --trust if you wrote it."
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(
            f"The configuration names the class {path!r}, which cannot be found: {error}; a module of "
            "your own lies beside what names it, or on PYTHONPATH."
        ) from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise UserError(f"The configuration names {path!r}, which is not a dataclass.")
    return found


def config_hash(value: Any) -> str:
    """Twelve hex digits of a configuration: the same for a field at its default as for a field that is not there."""
    return hashlib.sha256(json.dumps(_hashed(value), sort_keys=True).encode()).hexdigest()[:12]


def _hashed(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_hashed(item) for item in value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return to_plain(value)
    set_to = {f.name: getattr(value, f.name) for f in fields_of(value) if not at_default(value, f)}
    return {"class": old_path(class_path(type(value)))} | {name: _hashed(item) for name, item in set_to.items()}


def at_default(value: Any, field: "dataclasses.Field[Any]") -> bool:
    """Whether a field of a dataclass has its class's default."""
    found = getattr(value, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return found == field.default_factory()
    return field.default is not dataclasses.MISSING and type(found) is type(field.default) and found == field.default


def flat_fields(plain: Any, path: str = "") -> dict[str, bool | int | float | str]:
    """The scalar fields of a plain configuration by dotted name; a class stands for the field that holds it."""
    if isinstance(plain, dict):
        parts = [flat_fields(v, f"{path}.{k}".lstrip(".") if k != "class" else path) for k, v in plain.items()]
        return {name: value for part in parts for name, value in part.items() if name}
    if isinstance(plain, list):
        return {path: str(plain)}
    short = plain.rpartition(".")[2] if isinstance(plain, str) and plain.startswith("unified_jax.") else plain
    return {path: short if isinstance(short, bool | int | float | str) else str(short)}
