"""Parsing of command lines into dataclasses: numbers as people write them, and checks of all commands."""

import functools
import itertools
import math
import os
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from unified_jax.errors import UserError
from unified_jax.typing import hints_of

Parsed = TypeVar("Parsed")

MOST_STEPS = 1_000_000
"""Steps of a sampler that a command takes; more only fill the memory with times."""
MOST_DEVICES = 1024
"""Fake devices, each with sixteen threads."""

SHOWN = 80
"""Characters of a default that --help shows."""


def _shown(text: str) -> list[str]:
    return [text if len(text) <= SHOWN else f"{text[: SHOWN // 2]}... ({len(text)} characters)"]


TEXTS = PrimitiveConstructorSpec[Any](
    nargs=1, metavar="STR", instance_from_str=lambda words: words[0],
    is_instance=lambda value: isinstance(value, str), str_from_instance=_shown,
)  # fmt: skip
"""How tyro reads a text; a default may be a whole tokenizer."""


def parse(
    kind: type[Parsed], prog: str, arguments: list[str], default: Parsed | None = None, infinite: bool = False
) -> Parsed:
    """The command. `infinite` takes the word inf for a float: some fields of an experiment have no bound.

    Raises SystemExit: 0 after --help, 2 with a reason for invalid flags. Raises UserError if a constructor fails.
    """
    registry = ConstructorRegistry()
    arguments = _switched(kind, arguments)
    _refuse_lists_twice(kind, prog, arguments, default)

    def numbers_and_texts(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        return TEXTS if info.type is str else _numbers(info.type, infinite)

    registry.primitive_rule(numbers_and_texts)
    named: dict[str, Any] = {} if default is None else {"default": default}
    try:
        return tyro.cli(
            kind, prog=prog, args=arguments, registry=registry, config=(tyro.conf.AvoidSubcommands,), **named
        )
    except UserError:
        raise
    except Exception as error:  # a constructor may raise anything on invalid values
        raise UserError(f"{prog}: these flags cannot be: {error or type(error).__name__}") from error


def _switched(kind: Any, arguments: list[str]) -> list[str]:
    """The flags, where one that is on, off or left open (`bool | None`) may stand alone: --x, --no-x."""
    open_ones = {name for name, hint in hints_of(kind).items() if set(get_args(hint)) == {bool, type(None)}}
    found: list[str] = []
    for word, after in itertools.zip_longest(arguments, arguments[1:], fillvalue="--"):
        name = word.removeprefix("--").replace("-", "_")
        if word.startswith("--no-") and name.removeprefix("no_") in open_ones:
            found += [f"--{word.removeprefix('--no-')}", "False"]
        elif word.startswith("--") and name in open_ones and after.startswith("--"):
            found += [word, "True"]
        else:
            found.append(word)
    return found


def _refuse_lists_twice(kind: Any, prog: str, arguments: list[str], default: Any) -> None:
    """Raises UserError where a list is given twice: the first values would be lost."""
    flags = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    for flag in sorted({one for one in flags if flags.count(one) > 1}):
        names = flag.removeprefix("--").replace("-", "_").split(".")
        value: Any = default
        for name in names:
            value = getattr(value, name, None)
        hint = hints_of(kind).get(names[0]) if default is None and len(names) == 1 else None
        if isinstance(value, tuple) or get_origin(hint) is tuple:
            raise UserError(f"{prog}: {flag} is given twice; write all its values behind one {flag}.")


@functools.cache  # a command asks for the same few kinds hundreds of times
def _numbers(kind: Any, infinite: bool) -> PrimitiveConstructorSpec[Any] | None:
    """How tyro reads a number, a tuple of numbers, or either or None; None for any other type."""
    kinds = [one for one in get_args(kind) if one is not type(None)]
    optional = get_origin(kind) in (Union, UnionType) and len(kinds) == 1 < len(get_args(kind))
    kind = kinds[0] if optional else kind
    parts = get_args(kind) if get_origin(kind) is tuple else (kind,)
    if not parts or not all(part is int or part is float for part in parts):
        return None

    def read(words: list[str]) -> Any:
        if optional and words == ["None"]:
            return None
        if len(words) != len(parts):
            raise ValueError(f"expected {len(parts)} numbers, found {len(words)}")
        values = [whole(w) if part is int else real(w, infinite) for w, part in zip(words, parts, strict=True)]
        return tuple(values) if get_origin(kind) is tuple else values[0]

    def fits(value: Any) -> bool:
        values = value if isinstance(value, tuple) else (value,)
        pairs = zip(values, parts, strict=False)
        same = len(values) == len(parts) and all(isinstance(v, (int, p)) and not isinstance(v, bool) for v, p in pairs)
        return same or (optional and value is None)

    return PrimitiveConstructorSpec(
        nargs=(1, len(parts)) if optional and len(parts) > 1 else len(parts),
        metavar=" ".join(part.__name__.upper() for part in parts) + (" or None" if optional else ""),
        instance_from_str=read,
        is_instance=fits,
        str_from_instance=lambda value: [str(v) for v in (value if isinstance(value, tuple) else (value,))],
    )


def whole(text: str) -> int:
    """An integer: 10000, 10_000 or 1e4. Raises ValueError for 1.5, 1.5e0 and numbers of more than 64 bits."""
    try:
        value = int(text)
    except ValueError:
        value = _with_exponent(text)
    if value is None or not -(2**63) <= value < 2**63:
        raise ValueError(f"expected a whole number, such as 10000, 10_000 or 1e4, found {text[:40]!r}")
    return value


def _with_exponent(text: str) -> int | None:
    try:
        value = Decimal(text) if "e" in text.lower() else Decimal("nan")
    except InvalidOperation:
        return None
    if not value.is_finite() or abs(value) >= 2**63 or value != value.to_integral_value():
        return None
    return int(value)


def real(text: str, infinite: bool = False) -> float:
    """A finite number, and with `infinite` the word inf. Raises ValueError for nan and what is too large (1e400)."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    named = infinite and text.strip().lower().lstrip("+-") in ("inf", "infinity")
    if not math.isfinite(value) and not named:
        raise ValueError(f"expected a finite number, found {text[:40]!r}")
    return value


def first_word(arguments: list[str], usage: str, several: str, known: Iterable[str], more: str) -> str:
    """The first argument of a command: a recipe, a kind. --help prints the usage, the known ones and `more`.

    Raises SystemExit 0 after that help, UserError if the argument is missing.
    """
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"usage: {usage}\n\n{several}: {', '.join(known)}\n\n{more}")
        raise SystemExit(0)
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"Usage: {usage}; {several}: {', '.join(known)}.")
    return arguments[0]


def check_steps(steps: int | None) -> None:
    """Raises UserError for a number of sampler steps out of range."""
    if steps is not None and not 1 <= steps <= MOST_STEPS:
        raise UserError(f"The sampler needs at least one step and at most {MOST_STEPS}, found steps = {steps}.")


def check_devices(devices: int) -> None:
    """Raises UserError for a number of fake devices out of range."""
    if not 0 <= devices <= MOST_DEVICES:
        raise UserError(f"--devices must lie in 0 .. {MOST_DEVICES}, found {devices}.")


def check_room(flag: str, count: int, modalities: Iterable[Any]) -> None:
    """Raises UserError if this many samples, or keys, do not fit into memory."""
    one = 4 * sum(modality.blank().size for modality in modalities)
    held, memory = count * one, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if count >= 2**31 or held > memory:
        raise UserError(
            f"{flag} {count}: so many samples take {held / 2**30:,.1f} GiB, of {memory / 2**30:,.1f} that this machine "
            "has; ask for fewer at a time, with another --seed each."
        )
