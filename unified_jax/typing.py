"""Names for the arrays and trees that pass between the packages; fields that take any class of a protocol.

Axes in shapes: `b` batch, `n` tokens, `d` features, `f h w` frames/rows/columns, `c` channels, `p` patch features,
`a` position axes, `k` rows of a table.
"""

import dataclasses
import functools
import inspect
import types
import typing
from typing import TYPE_CHECKING, Annotated, Any

from jaxtyping import Array, Float, Int, Key

Keys = Key[Array, "b"]
"""One random key per example."""

Times = Float[Array, "b"] | Int[Array, "b"]
"""One time per example: float in [0, 1] (0 is data, 1 is noise) or the integer index of a discrete process."""

Params = dict[str, Any]
"""A plain nested dict of arrays."""

Batch = dict[str, Any]
"""Arrays by field name, each `[b, ...]`, with `slot` int32 `[b]`: the example's position in the global batch."""

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


def hints_of(cls: type) -> dict[str, Any]:
    """Field -> annotation; empty where one cannot be resolved."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError):  # an annotation that only a type checker can resolve
        return {}


def is_open(hint: Any) -> bool:
    """Whether an annotation is `Open[...]`."""
    return typing.get_origin(hint) is Annotated


def _protocol(hint: Any) -> Any:
    """P of `Open[P]`, else None."""
    return typing.get_args(hint)[1] if is_open(hint) else None


@functools.lru_cache(maxsize=1024)
def lacking(cls: type, protocol: type) -> str:
    """What a class lacks of a protocol, in words; "" where it has everything. Looked up on the class, never called."""
    if cls is type:
        return "a class itself is given: call it"
    if cls.__module__ == "builtins":
        return f"{cls.__name__} is no dataclass"
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
    return next(filter(None, (_misses(cls, protocol, n) for n in wanted if not n.startswith("_"))), "")


def _misses(cls: type, protocol: type, name: str) -> str:
    """How a class's method cannot be called as the protocol's is; "" where it can."""
    asked, own = (next((vars(b)[name] for b in c.__mro__ if name in vars(b)), None) for c in (protocol, cls))
    if not (inspect.isfunction(asked) and inspect.isfunction(own)):
        return ""  # a property, a field, a wrapped method
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    every = inspect.signature(asked).parameters.values()
    if any(p.kind in free for p in every):
        return ""  # it says nothing of its arguments
    given = [p for p in every if p.default is p.empty]
    try:
        named = {p.name: None for p in given if p.kind is p.KEYWORD_ONLY}
        inspect.signature(own).bind(*(None for p in given if p.name not in named), **named)
    except TypeError:
        shown = (", ".join(inspect.signature(one).parameters) for one in (own, asked))
        return "{}.{} takes {}, not {}".format(cls.__name__, name, *shown)
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


def misfit(where: str, value: Any, hint: Any) -> str:
    """What is there and what is expected, where a value does not fit; of a tuple its first item that does not."""
    if typing.get_origin(_protocol(hint)) is tuple:
        hint = _protocol(hint)
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and isinstance(value, tuple) and arguments[1:] == (Ellipsis,):
        i = next(i for i, item in enumerate(value) if not fits(item, arguments[0]))
        return misfit(f"{where}.{i}", value[i], arguments[0])
    kinds = arguments if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    lacks = [lacking(type(value), _protocol(kind)) for kind in kinds if is_open(kind)]
    expected = " | ".join(map(_named, kinds))
    return "; ".join([f"{where} is {str(value)[:80]!r}, expected {expected}", *lacks])


def _named(kind: Any) -> str:
    if is_open(kind):
        return f"{_protocol(kind).__name__} ({_protocol(kind).__module__})"
    return str(kind) if typing.get_origin(kind) else getattr(kind, "__name__", str(kind))
