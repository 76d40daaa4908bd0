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


def read_given(given: dict[str, str], model: Any, count: int) -> dict[str, np.ndarray]:
    """One row a sample for every field that is given, as `prepare` gives it. Raises UserError.

    A text is given as it is or as `@FILE` with one a line; labels by number or name and numbers, several with commas or
    as `@FILE`; anything else as `@FILE`, several as `@A,@B`. A label that only conditions the model has a null row: it
    is null where it is not given, and `--given.caption` names such labels in words where no field is called so.
    """
    by_name = {m.name: m for m in model.modalities if m.name in model.givable}
    labels = {n: m for n, m in by_name.items() if isinstance(m, Label) and n not in model.wantable}
    rows = {name: np.full(count, label.null, np.int32) for name, label in labels.items()}
    for name, text in given.items():
        if name in by_name:
            prepared = _prepared(name, by_name[name], text)
            rows[name] = np.stack([prepared[i % len(prepared)] for i in range(count)])
        elif name == "caption" and labels:
            for attribute, column in _captions(_values(name, text, commas=False), labels, count).items():
                rows[attribute] = np.where(column >= 0, column, rows[attribute]).astype(np.int32)
        else:
            known = ", ".join(by_name) or "nothing"
            raise UserError(f"--given.{name}: this model is conditioned on {known}{meant(name, by_name, '--given.')}")
    return rows


def _prepared(name: str, modality: Any, text: str) -> list[np.ndarray]:
    """Each value of a flag."""
    if hasattr(modality, "parse"):
        values: list[Any] = [modality.parse(value) for value in _values(name, text, commas=True)]
    elif isinstance(modality, Text):
        values = _values(name, text, commas=False)
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
    return prepared


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
