"""Features that were computed before the training: arrays of one shape and dtype (`data.cached`)."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Features:
    """Prepared arrays that a model reads as they are; nobody gives them by hand."""

    name: str
    """Field of the batch: the source, the stage and its output, as in "caption.text.tokens"."""
    shape: tuple[int, ...] = ()
    """Shape of an example."""
    dtype: str = "float32"
    """Name of their dtype."""

    def __post_init__(self) -> None:
        try:
            np.dtype(self.dtype)
        except TypeError:
            raise ValueError(f"Features {self.name!r}: {self.dtype!r} is no dtype of NumPy.") from None

    def prepare(self, raw: Any) -> np.ndarray:
        """An array of exactly this shape and dtype, unchanged. Raises ValueError for anything else."""
        array = np.asarray(raw)
        if array.shape != self.shape or array.dtype != np.dtype(self.dtype):
            raise ValueError(
                f"expected {self.dtype} {list(self.shape)}, found {array.dtype} {list(array.shape)}; features are "
                "written by unified-jax data encode"
            )
        return array

    def blank(self) -> np.ndarray:
        """Zeros."""
        return np.zeros(self.shape, self.dtype)

    def title(self, value: Any) -> str:
        """Nothing: features are not shown."""
        del value
        return ""
