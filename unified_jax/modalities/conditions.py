"""The form in which a network reads a condition."""

from dataclasses import dataclass
from typing import Literal

import jax

Kind = Literal["label", "vector", "scalars", "tokens", "map"]
Null = Literal["row", "learned", "zero", "empty", "none", "default"]
NEGATIVE = "negative."
"""Prefix of a field in a request: what guidance points away from, instead of the condition's null."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class ConditionForm:
    """The static form of a condition."""

    name: str
    """Name of the condition and of its layers; labels are numbered instead (`label_0`, `label_1`, ...)."""
    kind: Kind
    """label: int `[b]`; vector `[b, v]`; scalars `[b, s]`; tokens `[b, m, f]`; map `[b, *sizes, c]`."""
    features: int
    """Rows of a label's table with its null row; size of a vector, of scalars, of a token; channels of a map."""
    length: int = 1
    """Number of tokens."""
    null: Null = "row"
    """What replaces an absent condition: a row of the table, learned parameters, zeros, the encoding of an empty value
    (the empty prompt, as in Stable Diffusion), or nothing: it must be given, or is what its modality says where it is
    not ("default", its `blank`), and guidance leaves it in its place."""

    def __post_init__(self) -> None:
        if self.null == "row" and self.kind != "label":
            raise ValueError(
                f"The condition {self.name!r} is a {self.kind}: only a label's null is a row; choose learned, zero or "
                "none."
            )
        if self.features < 1 or self.length < 1:
            raise ValueError(f"The condition {self.name!r} needs features and length of at least 1, found {self}.")

    @property
    def kept(self) -> bool:
        """Whether it is always present: never dropped, and not left out by guidance."""
        return self.null in ("none", "default")
