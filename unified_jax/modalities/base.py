"""What every modality answers.

Host side (NumPy): `prepare` turns one raw example of a data set into an array of fixed shape and dtype, or says what is
wrong with it; `load` reads a file of the user's, `save` writes one that people open, `picture` draws an example for a
sheet. Device side (jnp): `to_model` / `from_model`, and for what is denoised `patches` / `unpatch` and `positions`.
"""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int


@runtime_checkable
class Modality(Protocol):
    """One kind of data under one name. Implementations: all of this folder."""

    @property
    def name(self) -> str:
        """The field of a batch it lives in."""
        ...

    def prepare(self, raw: Any) -> np.ndarray:
        """One raw example to the array a batch stacks.

        Raises ValueError saying what was found and what was expected.
        """
        ...


@runtime_checkable
class Continuous(Modality, Protocol):
    """What is denoised. Implementations: Image, Video, Depth, Audio, Points, Action."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example in model space, the channels last."""
        ...

    @property
    def tokens(self) -> int:
        """Patches of an example."""
        ...

    @property
    def patch_features(self) -> int:
        """Numbers in a patch."""
        ...

    @property
    def suffix(self) -> str:
        """Of the files that `save` writes."""
        ...

    def blank(self) -> np.ndarray:
        """Zeros of the shape and dtype that `prepare` gives, in the place of an example that is not there."""
        ...

    def to_model(self, raw: Array) -> Float[Array, "b ..."]:
        """A stack of prepared arrays to model space, float32 of about unit size."""
        ...

    def from_model(self, x: Array | np.ndarray) -> np.ndarray:
        """Model space to what people open."""
        ...

    def patches(self, x: Float[Array, "b ..."]) -> Float[Array, "b n p"]:
        """Model space to tokens."""
        ...

    def unpatch(self, tokens: Float[Array, "b n p"]) -> Float[Array, "b ..."]:
        """The inverse of `patches`."""
        ...

    def positions(self) -> Int[np.ndarray, "n a"]:
        """Integer positions of the tokens, one to three axes."""
        ...

    def load(self, path: Path) -> np.ndarray:
        """A file as a raw example. Raises ValueError saying what was found and what was expected."""
        ...

    def open(self, prepared: np.ndarray) -> np.ndarray:
        """What `prepare` gave, as people open it."""
        ...

    def save(self, path: Path, example: np.ndarray) -> None:
        """One example of `from_model` as a file."""
        ...

    def picture(self, example: np.ndarray) -> Any:
        """The example as a Pillow picture, for a sheet."""
        ...


def check_array(value: Any, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """The value as an array of this shape and kind of number (float: any width, finite).

    Raises ValueError saying what was found and what was expected.
    """
    array = np.asarray(value)
    floating = np.issubdtype(dtype, np.floating)
    kind = np.issubdtype(array.dtype, np.floating) if floating else array.dtype == dtype
    if not kind or array.shape != shape:
        wanted = "float" if floating else np.dtype(dtype).name
        raise ValueError(f"expected {wanted} {list(shape)}, found {array.dtype} {list(array.shape)}")
    if floating and not np.isfinite(array).all():
        raise ValueError(f"expected finite numbers, found {int((~np.isfinite(array)).sum())} that are not")
    return array.astype(dtype)
