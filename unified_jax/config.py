"""Plain values <-> dataclasses: a run's configuration as JSON (class path and fields, no pickle).

`to_plain` turns a graph of frozen dataclasses (Linen modules among them) into JSON values; `from_plain` builds it
again. Resolving a class path is the one lookup by name in the house: classes of this package, and with `trust=True`
those of a user's own module.
"""

import dataclasses
import hashlib
import importlib
import json
import math
import types
import typing
from collections.abc import Iterator
from typing import Any

from unified_jax.errors import UserError

LINEN_FIELDS = ("parent", "name")
"""Fields Linen adds to a module; they are not configuration."""


def fields_of(value: Any) -> list[dataclasses.Field[Any]]:
    """The configuration fields of a dataclass instance: those its constructor takes, without Linen's own."""
    linen = "flax.linen" in {base.__module__.rsplit(".", 1)[0] for base in type(value).__mro__}
    return [f for f in dataclasses.fields(value) if f.init and not (linen and f.name in LINEN_FIELDS)]


def to_plain(value: Any) -> Any:
    """JSON values for a graph of dataclasses, tuples and plain values. Raises TypeError for anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        plain = {f.name: to_plain(getattr(value, f.name)) for f in fields_of(value)}
        return {"class": f"{cls.__module__}.{cls.__qualname__}", **plain}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"A configuration holds plain values, tuples and dataclasses; found {type(value).__name__}.")


def from_plain(plain: Any, trust: bool = False) -> Any:
    """The graph that `to_plain` wrote. Raises UserError for an unknown class or field, or a value of another kind."""
    try:
        return _build(plain, trust)
    except RecursionError as error:
        raise UserError("The configuration is nested too deeply to be one of ours.") from error


def _build(plain: Any, trust: bool) -> Any:
    if isinstance(plain, list):
        return tuple(_build(item, trust) for item in plain)
    if not isinstance(plain, dict):
        return plain
    cls = _resolve(plain.get("class", ""), trust)
    values = {name: _build(value, trust) for name, value in plain.items() if name != "class"}
    for misfit in _misfits(cls, values):
        raise UserError(f"The configuration of {cls.__name__} does not fit this version: {misfit}.")
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
        for misfit in _misfits(cls, values):
            raise UserError(
                f"{cls.__name__}.{misfit}. (A class of your own is added to these first: a run opens no other.)"
            )
        for item in values.values():
            check_kinds(item)


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
    hints = hints_of(cls)
    for name, value in values.items():
        if name in hints and not fits(value, hints[name]):
            kinds = typing.get_args(hints[name]) if isinstance(hints[name], types.UnionType) else (hints[name],)
            expected = " | ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
            yield f"{name} is {str(value)[:80]!r}, expected {expected}"


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the kind that a field's annotation asks for; annotations it cannot read fit anything."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return any(type(value) is type(argument) and value == argument for argument in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(fits(v, a) for v, a in zip(value, arguments, strict=True))
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is None:
        return value is None
    if isinstance(hint, type) and not getattr(hint, "_is_protocol", False):
        return isinstance(value, hint)
    return True


def hints_of(cls: type) -> dict[str, Any]:
    """Field -> annotation; empty where one cannot be resolved."""
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError):  # an annotation that only a type checker can resolve
        return {}


def _resolve(path: Any, trust: bool) -> Any:
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if not (module.split(".")[0] == "unified_jax" or (trust and module)):
        raise UserError(
            f"The configuration names the class {path!r}, which is not of this package; pass --trust if you wrote it."
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"The configuration names the class {path!r}, which cannot be found: {error}") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise UserError(f"The configuration names {path!r}, which is not a dataclass.")
    return found


def config_hash(value: Any) -> str:
    """Twelve hex digits of a configuration."""
    return hashlib.sha256(json.dumps(to_plain(value), sort_keys=True).encode()).hexdigest()[:12]
