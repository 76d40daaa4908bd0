"""What a modality is to a network that reads it as it is."""

from dataclasses import dataclass
from typing import Literal

import jax

Kind = Literal["label", "vector", "scalars", "tokens", "map"]
Null = Literal["row", "learned", "zero", "none"]


@jax.tree_util.register_static
@dataclass(frozen=True)
class ConditionForm:
    """What a network knows of a condition."""

    name: str
    """Of the condition; names its layers, but for labels, which are counted (`label_0`, `label_1`, ...)."""
    kind: Kind
    """label: int `[b]`; vector `[b, v]`; scalars `[b, s]`; tokens `[b, m, f]`; map `[b, *sizes, c]`."""
    features: int
    """Rows of a label's table with its null row; numbers of a vector, of scalars, of a token; channels of a map."""
    length: int = 1
    """Tokens."""
    null: Null = "row"
    """What stands for an absent one: a row of the table, something learned by the network, zeros, or nothing: it is
    always there."""

    def __post_init__(self) -> None:
        if self.null == "row" and self.kind != "label":
            raise ValueError(
                f"The condition {self.name!r} is a {self.kind}: only a label's null is a row; choose learned, zero or "
                "none."
            )
        if self.features < 1 or self.length < 1:
            raise ValueError(f"The condition {self.name!r} needs features and length of at least 1, found {self}.")
