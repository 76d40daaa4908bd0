"""What every modality answers. Implementations: `Image`, `Label`.

Host side (NumPy): `prepare` turns one raw example of a data set into an array of fixed shape and dtype, or says what
is wrong with it. Device side (jnp): `to_model` / `from_model`, and for what is denoised `patches` / `unpatch` and
`positions`.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Modality(Protocol):
    """One kind of data under one name."""

    @property
    def name(self) -> str:
        """The field of a batch it lives in."""
        ...

    def prepare(self, raw: Any) -> np.ndarray:
        """One raw example to the array a batch stacks.

        Raises ValueError saying what was found and what was expected.
        """
        ...
