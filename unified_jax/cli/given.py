"""Conditions from a command line: `--given.NAME VALUE`, several values separated by commas, captions of the world,
@files.

Values repeat over the samples: with `--given.label 1,2` samples 0, 2, ... are of class 1. `--given.caption TEXT` names
attributes of the world in words; what it does not name is left free. `@PATH` reads one value a line from a file.
"""

from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.data.world.caption import read_caption
from unified_jax.errors import UserError, meant
from unified_jax.modalities.label import Label
from unified_jax.modalities.reading import read_text
from unified_jax.modalities.text import Text


def split_arguments(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """({name: text} of the --given flags, all other arguments).

    Raises UserError for a flag without a value, or one that is given twice.
    """
    given: dict[str, str] = {}
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if not word.startswith("--given."):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix("--given.").partition("=")
        if not equals:
            if not queue:
                raise UserError(f"{word} needs a value.")
            value = queue.pop(0)
        if name in given:
            raise UserError(
                f"--given.{name} is given twice; several values stand in one flag with commas, or in @FILE, one a line."
            )
        given[name] = value
    return given, rest


def parse_given(given: dict[str, str], conditions: tuple[Label, ...], count: int) -> dict[str, np.ndarray]:
    """One int32 row a sample for every condition of the model; null where nothing was given. Raises UserError."""
    labels = {c.name: c for c in conditions}
    columns = {name: np.full(count, label.null, np.int32) for name, label in labels.items()}
    for name, text in given.items():
        if name == "caption" and name not in labels:
            for attribute, column in _captions(_values(name, text, commas=False), labels, count).items():
                columns[attribute] = np.where(column >= 0, column, columns[attribute]).astype(np.int32)
        elif name in labels:
            values = [labels[name].parse(value) for value in _values(name, text, commas=True)]
            columns[name] = np.resize(np.asarray(values, np.int32), count)
        else:
            known = ", ".join(labels) or "nothing"
            raise UserError(f"--given.{name}: this model is conditioned on {known}{meant(name, labels, '--given.')}")
    return columns


def read_given(given: dict[str, str], modalities: tuple[Any, ...], count: int) -> dict[str, np.ndarray]:
    """One row a sample for every modality that is given, as `prepare` gives it. Raises UserError.

    A text is given as it is or as `@FILE` with one a line, labels by number or name; anything else as `@FILE`, several
    as `@A,@B`.
    """
    by_name = {m.name: m for m in modalities}
    rows = {}
    for name, text in given.items():
        if name not in by_name:
            raise UserError(f"--given.{name}: this model has {', '.join(by_name)}{meant(name, by_name, '--given.')}")
        modality: Any = by_name[name]
        if isinstance(modality, Text):
            values: list[Any] = _values(name, text, commas=False)
        elif isinstance(modality, Label):
            values = [modality.parse(value) for value in _values(name, text, commas=True)]
        elif text.startswith("@"):
            values = [Path(part) for part in text[1:].split(",@")]
        else:
            raise UserError(f"--given.{name} takes a file: --given.{name} @PATH.")
        prepared = []
        for value in values:
            try:
                prepared.append(modality.prepare(_loaded(modality, value)))
            except ValueError as error:
                raise UserError(f"--given.{name} {str(value)!r}: {str(error).rstrip('.')}.") from None
            except OSError as error:
                raise UserError(f"--given.{name}: {str(value)!r} cannot be read ({error.strerror or error}).") from None
        rows[name] = np.stack([prepared[i % len(prepared)] for i in range(count)])
    return rows


def _loaded(modality: Any, value: Any) -> Any:
    return modality.load(value) if isinstance(value, Path) else value


def _values(name: str, text: str, commas: bool) -> list[str]:
    if text.startswith("@"):
        values = [line for line in _lines(name, text[1:]) if line]
        if not values:
            raise UserError(f"--given.{name}: the file {text[1:]!r} holds no value; expected one a line.")
        return values
    values = [part.strip() for part in text.split(",")] if commas else [text]
    if not all(values):
        raise UserError(f"--given.{name} {text!r} holds no value.")
    return values


def _lines(name: str, path: str) -> list[str]:
    """The lines of a text file of any system, without the blanks around them."""
    try:
        return [line.strip() for line in read_text(Path(path)).split("\n")]
    except ValueError as error:
        raise UserError(f"--given.{name}: the file {path!r} cannot be read ({error}).") from error


def _captions(texts: list[str], labels: dict[str, Label], count: int) -> dict[str, Any]:
    """Attribute -> `[count]`, -1 where the caption leaves it free."""
    rows = []
    for text in texts:
        try:
            objects = read_caption(text)
        except ValueError as error:
            raise UserError(f"--given.caption {text!r}: {error}") from None
        if len(objects) != 1:
            raise UserError(f"--given.caption {text!r} names {len(objects)} objects; this model draws one.")
        shown = {name: value for name, value in objects[0].items() if name in labels}
        if not shown:
            raise UserError(
                f"--given.caption {text!r} names nothing that this model is conditioned on ({', '.join(labels)})."
            )
        rows.append([shown.get(name, -1) for name in labels])
    table = np.resize(np.asarray(rows, np.int32), (count, len(labels)))
    return {name: table[:, i] for i, name in enumerate(labels)}
