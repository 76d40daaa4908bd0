"""Plain values <-> dataclasses: a run's configuration as JSON (class path and fields, no pickle).

`to_plain` turns a graph of frozen dataclasses (Linen modules among them) into JSON values; `from_plain` builds it
again. Resolving a class path is the one lookup by name in the house: classes of this package, and with `trust=True`
those of a user's own module.
"""

import dataclasses
import hashlib
import importlib
import json
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
    """The graph that `to_plain` wrote. Raises UserError for an unknown class or field."""
    if isinstance(plain, list):
        return tuple(from_plain(item, trust) for item in plain)
    if not isinstance(plain, dict):
        return plain
    cls = _resolve(plain.get("class", ""), trust)
    values = {name: from_plain(value, trust) for name, value in plain.items() if name != "class"}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"The configuration of {cls.__name__} does not fit this version: {error}") from error


def _resolve(path: str, trust: bool) -> Any:
    module, _, name = path.rpartition(".")
    if not (module.split(".")[0] == "unified_jax" or (trust and module)):
        raise UserError(
            f"The configuration names the class {path!r}, which is not of this package; pass --trust if you wrote it."
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"The configuration names the class {path!r}, which cannot be found: {error}") from error
    if not dataclasses.is_dataclass(found):
        raise UserError(f"The configuration names {path!r}, which is not a dataclass.")
    return found


def config_hash(value: Any) -> str:
    """Twelve hex digits of a configuration."""
    return hashlib.sha256(json.dumps(to_plain(value), sort_keys=True).encode()).hexdigest()[:12]
