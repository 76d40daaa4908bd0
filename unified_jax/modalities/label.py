"""Labels: one of several named classes.

They condition a network (the index after the last class is the null row for guidance), or are items of a document, of
one token.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.files import draw_words
from unified_jax.modalities.reading import read_text


@dataclass(frozen=True)
class Label:
    """A class out of `classes`, optionally with names."""

    name: str = "label"
    """Field of the batch and name on the command line: --given.NAME."""
    classes: int = 10
    """Number of classes, without the null row."""
    names: tuple[str, ...] = ()
    """Class names in order; text labels of a data set are looked up here."""
    absent: bool = False
    """Whether the data may hold index `classes`, the null row, for "no label"."""

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ValueError(f"Label {self.name!r} needs at least one class, found {self.classes}.")
        if self.names and len(self.names) != self.classes:
            raise ValueError(f"Label {self.name!r} has {self.classes} classes but {len(self.names)} names.")

    @property
    def null(self) -> int:
        """The index that says "not given"."""
        return self.classes

    @property
    def vocabulary(self) -> int:
        """Number of token ids in a document: one per class."""
        return self.classes

    @property
    def length(self) -> int:
        """Tokens in a document."""
        return 1

    @property
    def suffix(self) -> str:
        """Plain text."""
        return ".txt"

    def blank(self) -> Int[np.ndarray, ""]:
        """See `Continuous.blank`."""
        return np.zeros((), np.int32)

    def prepare(self, raw: Any) -> Int[np.ndarray, ""]:
        """An int in 0 .. classes - 1, or a class name as text or bytes.

        The null row is refused unless `absent`: data whose labels run from 1 to `classes` would train it.
        """
        if isinstance(raw, bytes | np.bytes_):
            raw = raw.decode(errors="replace")
        if isinstance(raw, str | np.str_):
            if raw not in self.names:
                raise ValueError(f"expected one of {list(self.names)}, found {str(raw)!r}")
            return np.asarray(self.names.index(str(raw)), np.int32)
        value = np.asarray(raw)
        if value.shape != () or not np.issubdtype(value.dtype, np.integer):
            raise ValueError(f"expected an integer in 0 .. {self.classes - 1}, found {value.dtype} {list(value.shape)}")
        if not 0 <= value < self.classes + self.absent:
            hint = "; labels count from 0, these may count from 1" if value == self.classes else ""
            raise ValueError(f"expected an integer in 0 .. {self.classes - 1}, found {int(value)}{hint}")
        return value.astype(np.int32)

    def parse(self, text: str) -> int:
        """Parses a class number or name from the command line. Raises ValueError with the classes.

        >>> Label("colour", 2, ("red", "green")).parse("green")
        1
        """
        known = f"0 .. {self.classes - 1}" + (f" or one of {', '.join(self.names)}" if self.names else "")
        if text in self.names:
            return self.names.index(text)
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"expected {known}") from None
        if not 0 <= value < self.classes:
            raise ValueError(f"expected {known}")
        return value

    def condition_form(self) -> ConditionForm:
        """One table row per class, and the null row."""
        return ConditionForm(self.name, "label", self.classes + 1)

    def to_condition(self, raw: Array) -> Int[Array, " b"]:
        """Class numbers."""
        return jnp.asarray(raw, jnp.int32)

    def title(self, value: int) -> str:
        """Title of a class in an image grid; an asterisk for the null row and for no class."""
        if not 0 <= value < self.classes:
            return "*"
        return self.names[value] if self.names else str(value)

    def from_model(self, ids: Any) -> Int[np.ndarray, " b"]:
        """Token ids `[b, 1]` as classes, -1 where absent."""
        return np.asarray(ids, np.int32).reshape(len(ids))

    def to_prepared(self, ids: Any) -> Any:
        """The same in a program, for the links of a chain; the null row where absent."""
        found = ids.reshape(len(ids))
        return jnp.where(found < 0, self.null, found)

    def load(self, path: Path) -> int | str:
        """A text file that holds a class name or number, as `save` writes it."""
        text = read_text(path).strip()
        if text in self.names:
            return text
        try:
            return int(text)
        except ValueError:
            known = f"0 .. {self.classes - 1}" + (f" or one of {', '.join(self.names)}" if self.names else "")
            raise ValueError(f"expected {known}, found {text[:40]!r}") from None

    def save(self, path: Path, example: Any) -> None:
        """Its name."""
        path.write_text(self.title(int(example)) + "\n", encoding="utf-8")

    def picture(self, example: Any) -> Any:
        """Its name, in black on white."""
        return draw_words(self.title(int(example)))


def named(modalities: tuple[Any, ...], names: dict[str, tuple[str, ...]]) -> tuple[Any, ...]:
    """The modalities, labels without names with those that their data set gives them, where the numbers agree."""
    return tuple(
        replace(m, names=names[m.name])
        if isinstance(m, Label) and not m.names and len(names.get(m.name, ())) == m.classes
        else m
        for m in modalities
    )
