"""What a training record varies.

It draws five uniform numbers, always in the same order. The generators of a record's fields are equal, and the numbers
count in shares of the free range. So its image, depth and map get the same part and are mirrored together, also where
their sizes differ by a factor. A record with a text that names a side may be left as it is (`Fitted.sides`): mirrored,
it would contradict its text.
"""

import re
from typing import Any, NamedTuple

import numpy as np

from unified_jax.modalities.reading import File


class Draw(NamedTuple):
    """What a training record varies, uniform in [0, 1)."""

    flip: float
    side: float
    top: float
    left: float
    start: float

    @property
    def mirrored(self) -> bool:
        """True with probability 1/2."""
        return self.flip < 0.5


def draw(rng: np.random.Generator) -> Draw:
    """The five numbers of a record."""
    return Draw(*rng.random(5).tolist())


def names_side(record: dict[str, Any], sides: tuple[str, ...]) -> bool:
    """Whether a text of the record holds one of these words, in capitals or not."""
    if not sides:
        return False
    word = re.compile(rf"\b(?:{'|'.join(map(re.escape, sides))})\b", re.IGNORECASE)
    return any(word.search(text_of(value)) for value in record.values())


def text_of(value: Any) -> str:
    """A value of a record as text: a string, or what a text file holds; anything else is empty."""
    if isinstance(value, File):
        value = value.content if value.suffix == ".txt" else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""
