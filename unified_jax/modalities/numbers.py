"""Numbers that condition a network: a vector of features, or scalars that are embedded one by one (sizes, times)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.modalities.base import check_array
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.reading import read_text


@dataclass(frozen=True)
class Numbers:
    """`count` numbers of an example."""

    name: str = "numbers"
    """Field of the batch and name on the command line: --given.NAME."""
    count: int = 1
    """How many numbers."""
    kind: Literal["vector", "scalars"] = "vector"
    """One vector, or scalars that a network embeds one by one."""
    default: tuple[float, ...] = ()
    """What they are where they are not given, and guidance leaves them so (SDXL's sizes); (): zeros, which are null."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"Numbers {self.name!r} needs a count of at least 1, found {self.count}.")
        if self.default and len(self.default) != self.count:
            raise ValueError(f"Numbers {self.name!r} are {self.count}, and default has {len(self.default)}.")

    def blank(self) -> Float[np.ndarray, " v"]:
        """The default, or zeros."""
        return np.asarray(self.default or (0.0,) * self.count, np.float32)

    def prepare(self, raw: Any) -> Float[np.ndarray, " v"]:
        """Finite numbers, as many as `count`."""
        array = np.asarray(raw)
        if np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating):
            with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
                array = array.astype(np.float32)
        return check_array(array.reshape(-1) if array.ndim == 0 else array, (self.count,), np.float32)

    def parse(self, text: str) -> Float[np.ndarray, " v"]:
        """Parses numbers separated by spaces. Raises ValueError."""
        try:
            return self.prepare(np.asarray([float(part) for part in text.split()]))
        except ValueError as error:
            raise ValueError(f"expected {self.count} number(s) ({error})") from None

    def load(self, path: Path) -> Float[np.ndarray, " v"]:
        """A text file with the numbers."""
        return self.parse(read_text(path))

    def title(self, value: Any) -> str:
        """The numbers as text."""
        return " ".join(f"{number:.4g}" for number in np.asarray(value).tolist())

    def condition_form(self) -> ConditionForm:
        """The default or zeros where absent."""
        return ConditionForm(self.name, self.kind, self.count, null="default" if self.default else "zero")

    def to_condition(self, raw: Array) -> Float[Array, "b v"]:
        """Unchanged."""
        return jnp.asarray(raw, jnp.float32)
