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
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

from unified_jax.errors import UserError
from unified_jax.moved import MOVED, old_path, present_path

__all__ = [
    "MOVED", "Open", "Trust", "check_finite", "check_kinds", "class_path", "config_hash", "fields_of", "fits",
    "from_plain", "hints_of", "lacking", "to_plain",
]  # fmt: skip

if TYPE_CHECKING:
    from typing import TypeVar

    _T = TypeVar("_T")
    Open = Annotated[_T, "any class of this protocol"]
else:

    class Open:
        """The annotation of a field that takes any class of a protocol: `process: Open[Process]`.

        Of a tuple that holds such: `Open[tuple[Part | Open[Protocol], ...]]`, so that flags follow what it holds.
        """

        def __class_getitem__(cls, protocol: Any) -> Any:
            return Annotated[Any, protocol]


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
            raise UserError(f"{cls.__name__}.{misfit}.")
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
    for name, hint in hints_of(cls).items():
        if name not in values or fits(values[name], hint):
            continue
        protocol = _protocol(hint)
        if typing.get_origin(protocol) is not None:
            hint, protocol = protocol, None
        if protocol is None:
            kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            expected = " | ".join(str(k) if typing.get_origin(k) else getattr(k, "__name__", str(k)) for k in kinds)
            yield f"{name} is {str(values[name])[:80]!r}, expected {expected}"
        else:
            where = f"{protocol.__name__} ({protocol.__module__})"
            yield f"{name} is {str(values[name])[:80]!r}, expected {where}; {lacking(type(values[name]), protocol)}"


def _protocol(hint: Any) -> Any:
    """P of `Open[P]`, else None."""
    return typing.get_args(hint)[1] if typing.get_origin(hint) is Annotated else None


def lacking(cls: type, protocol: type) -> str:
    """What a class lacks of a protocol, in words; "" where it has everything. Looked up on the class, never called."""
    if not dataclasses.is_dataclass(cls):
        return f"{cls.__name__} is no dataclass: write @dataclass(frozen=True) above it"
    if cls.__hash__ is None:
        return f"{cls.__name__} cannot be hashed: write @dataclass(frozen=True) above it"
    bases = [base for base in protocol.__mro__ if base.__module__ not in ("typing", "builtins", "abc")]
    names = {n for base in bases for n in (*vars(base), *vars(base).get("__annotations__", ()))}
    wanted = sorted(n for n in names if not n.startswith("_") or n in ("__call__", "__len__", "__getitem__"))
    there = {f.name for f in dataclasses.fields(cls)} | {n for base in cls.__mro__[:-1] for n in vars(base)}
    if absent := [n for n in wanted if n not in there]:
        return f"{cls.__name__} lacks {', '.join(absent)}"
    if "__call__" in wanted:
        asked, taken = (inspect.signature(vars_call(c)).parameters for c in (protocol, cls))
        if unknown := [n for n in asked if n not in taken]:
            return f"{cls.__name__}.__call__ takes {', '.join(taken)}, without {', '.join(unknown)}"
    return ""


def vars_call(cls: Any) -> Any:
    """`__call__` as instances have it (a class's own is its constructor)."""
    return next(vars(base)["__call__"] for base in cls.__mro__ if "__call__" in vars(base))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the kind that a field's annotation asks for; annotations it cannot read fit anything."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if (protocol := _protocol(hint)) is not None:
        return fits(value, protocol) if typing.get_origin(protocol) else not lacking(type(value), protocol)
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
    if hint is Any:
        return True
    if isinstance(hint, type) and not getattr(hint, "_is_protocol", False):
        return isinstance(value, hint)
    return True


def hints_of(cls: type) -> dict[str, Any]:
    """Field -> annotation; empty where one cannot be resolved."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError):  # an annotation that only a type checker can resolve
        return {}


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
        raise UserError(f"The configuration names the class {path!r}, which cannot be found: {error}") from error
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
    set_to = {f.name: getattr(value, f.name) for f in fields_of(value) if not _at_default(value, f)}
    return {"class": old_path(class_path(type(value)))} | {name: _hashed(item) for name, item in set_to.items()}


def _at_default(value: Any, field: "dataclasses.Field[Any]") -> bool:
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
        return {path: str(plain)[:200]}
    short = plain.rpartition(".")[2] if isinstance(plain, str) and plain.startswith("unified_jax.") else plain
    return {path: short if isinstance(short, bool | int | float | str) else str(short)}
