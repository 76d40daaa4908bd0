"""The conditions of samples: as Python values, or as the text of `--given.NAME` flags.

Values repeat over the samples: of the labels `[1, 2]` samples 0, 2, ... are of class 1. For a model with labels,
`caption` names attributes of the world in words; the others are left free.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from unified_jax.data.world.caption import read_caption
from unified_jax.errors import UserError, meant
from unified_jax.modalities.conditions import NEGATIVE
from unified_jax.modalities.label import Label
from unified_jax.modalities.reading import read_text

FLAG, AGAINST = "--given.", "--negative."
"""`--negative.NAME` says what guidance points away from; in a request it is the field negative.NAME."""


@runtime_checkable
class Parses(Protocol):
    """A modality whose values are words on the command line; others are given as files.

    `listed = False`: a comma is a part of a value, not between two. `empty = "keep"`: a blank value is one too.
    """

    def parse(self, text: str) -> Any:
        """The value of a word, as `prepare` takes it. Raises ValueError saying what was expected."""
        ...

    def prepare(self, raw: Any) -> np.ndarray:
        """See `Modality.prepare`."""
        ...


def split_arguments(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """({name: text} of the --given and --negative flags, all other arguments).

    Raises UserError for a flag without a value, or one that is given twice.
    """
    given: dict[str, str] = {}
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if not word.startswith((FLAG, AGAINST)):
            rest.append(word)
            continue
        flag, equals, value = word.partition("=")
        name = NEGATIVE + flag.removeprefix(AGAINST) if flag.startswith(AGAINST) else flag.removeprefix(FLAG)
        if not equals:
            if not queue:
                raise UserError(f"{word} needs a value.")
            value = queue.pop(0)
        if name in given:
            raise UserError(f"{flag} is given twice; separate several values by commas, or use @FILE, one per line.")
        given[name] = value
    return given, rest


def read_given(
    given: Mapping[str, str], model: Any, count: int, first: int = 0, modalities: tuple[Any, ...] = ()
) -> dict[str, np.ndarray]:
    """The rows of flags. Raises UserError.

    A text is given as it is or as `@FILE` with one a line; labels and numbers by commas or as `@FILE`; anything else as
    `@FILE`, several as `@A,@B`.
    """
    modalities = modalities or model.modalities
    known = {m.name: m for m in modalities}
    known |= {NEGATIVE + name: modality for name, modality in known.items()}
    values = {
        name: _values(name, known[name], text) if name in known else _texts(name, text) for name, text in given.items()
    }
    return given_rows(values, model, count, FLAG, first, modalities)


def given_rows(
    given: Mapping[str, Any],
    model: Any,
    count: int,
    flag: str = "",
    first: int = 0,
    modalities: tuple[Any, ...] = (),
) -> dict[str, np.ndarray]:
    """One row per sample, from index `first` on, for every field that is given, as `prepare` gives it.

    given    by field: one value or a list of them (`several`). A label is a number or a name; a text a string, or the
             path of a file; anything else an array as the modality's `prepare` takes it, or the path of a file.
             "negative.FIELD" is what guidance points away from, in the place of the condition's null
    flag     prefix of a field's name in messages
    modalities   the model's with names of classes (`modalities.label.named`); (): as they are

    A label that only conditions the model has a null row: it is null where it is not given, and "caption" names such
    labels in words where no field is called so. Raises UserError for a field or a value that the model does not know.
    """
    by_name = {m.name: m for m in modalities or model.modalities if m.name in model.givable}
    labels = {n: m for n, m in by_name.items() if isinstance(m, Label) and n not in model.wantable}
    rows = {name: np.full(count, label.null, np.int32) for name, label in labels.items()}
    for name, value in given.items():
        if name.startswith(NEGATIVE) and (of := name.removeprefix(NEGATIVE)) in by_name:
            told = AGAINST if flag == FLAG else flag + NEGATIVE
            rows[name] = field_rows(by_name[of], value, range(first, first + count), told)
        elif name in by_name:
            rows[name] = field_rows(by_name[name], value, range(first, first + count), flag)
        elif name == "caption" and labels:
            texts = [value] if isinstance(value, str) else list(value)
            for attribute, column in _captions(flag + name, texts, labels, range(first, first + count)).items():
                rows[attribute] = np.where(column >= 0, column, rows[attribute]).astype(np.int32)
        else:
            there, called = ", ".join(by_name) or "nothing", flag + name
            if flag == FLAG and name.startswith(NEGATIVE):
                called = AGAINST + name.removeprefix(NEGATIVE)
            raise UserError(f"{called}: this model is conditioned on {there}{meant(name, by_name, flag)}")
    return rows


def field_rows(modality: Any, value: Any, which: range, flag: str = "") -> np.ndarray:
    """The prepared values of one field for the samples of these indices; a list of values repeats.

    Raises UserError for a value that the modality refuses.
    """
    prepared = [_prepared(flag + modality.name, modality, one) for one in several(value, modality)]
    return np.stack([prepared[i % len(prepared)] for i in which])


def several(value: Any, modality: Any) -> list[Any]:
    """The values of a field: a list or a tuple of them, a stack of arrays with one axis more than one example, or one.

    Raises UserError for none.
    """
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        value = np.asarray(value)
        whole = 0 if value.dtype.kind in "US" else modality.blank().ndim
        value = list(value) if value.ndim == whole + 1 else [value]
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise UserError(f"{modality.name}: no value is given.")
    return values


def _prepared(called: str, modality: Any, value: Any) -> np.ndarray:
    shown = repr(str(value)) if isinstance(value, str | Path) else f"({type(value).__name__})"
    try:
        if isinstance(value, str) and isinstance(modality, Parses):
            value = modality.parse(value)
        elif isinstance(value, str | Path):
            if not hasattr(modality, "load"):
                raise ValueError(f"{type(modality).__name__} reads no files: it has no method load")
            value = modality.load(Path(value))
        made: Any = modality.prepare(value)
        return made[getattr(modality, "name", "")] if isinstance(made, dict) else made
    except ValueError as error:
        raise UserError(f"{called} {shown}: {str(error).rstrip('.')}.") from None
    except OSError as error:
        raise UserError(f"{called}: {shown} cannot be read ({error.strerror or error}).") from None


def _values(name: str, modality: Any, text: str) -> list[Any]:
    """Each value of a flag."""
    if isinstance(modality, Parses):
        blank = getattr(modality, "empty", "") == "keep"
        return _texts(name, text, commas=getattr(modality, "listed", True), blank=blank)
    if text.startswith("@"):
        return [Path(part) for part in text[1:].split(",@")]
    raise UserError(f"{FLAG}{name} takes a file: {FLAG}{name} @PATH.")


def _texts(name: str, text: str, commas: bool = False, blank: bool = False) -> list[str]:
    if text.startswith("@"):
        values = [line for line in _lines(name, text[1:]) if line or blank]
        if not values:
            raise UserError(f"{FLAG}{name}: the file {text[1:]!r} holds no value; expected one per line.")
        return values
    values = [part.strip() for part in text.split(",")] if commas else [text]
    if not all(values) and not blank:
        raise UserError(f"{FLAG}{name} {text!r} holds no value.")
    return values


def _lines(name: str, path: str) -> list[str]:
    """The lines of a text file of any system, without the blanks around them and behind the last."""
    try:
        text = read_text(Path(path)).rstrip()
        return [line.strip() for line in text.split("\n")] if text else []
    except ValueError as error:
        raise UserError(f"{FLAG}{name}: the file {path!r} cannot be read ({error}).") from error


def _captions(called: str, texts: list[str], labels: dict[str, Label], which: range) -> dict[str, Any]:
    """Attribute -> a row per sample, -1 where the caption leaves it free."""
    rows = []
    for text in texts:
        try:
            objects = read_caption(text)
        except ValueError as error:
            raise UserError(f"{called} {text!r}: {error}") from None
        if len(objects) != 1:
            raise UserError(f"{called} {text!r} names {len(objects)} objects; this model draws one.")
        shown = {name: value for name, value in objects[0].items() if name in labels}
        if not shown:
            raise UserError(f"{called} {text!r} names nothing that this model is conditioned on ({', '.join(labels)}).")
        rows.append([shown.get(name, -1) for name in labels])
    table = np.asarray([rows[i % len(rows)] for i in which], np.int32)
    return {name: table[:, i] for i, name in enumerate(labels)}
