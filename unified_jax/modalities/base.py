"""The interface of all modalities.

Host side (NumPy): `prepare` turns one raw example of a data set into an array of fixed shape and dtype, or says what is
wrong with it. `load` reads a user's file, `save` writes one, and `picture` draws an example for an image grid. Device
side (jnp): `to_model` / `from_model`.

Denoised modalities derive from `Continuous`: arrays `[*sizes, c]` in model space, cut into patches of `cut` along
its axes. A new modality is one file with one such class; docs/adding_a_modality.md writes one.
"""

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.grid import grid_of, grid_positions, patchify, unpatchify
from unified_jax.modalities.reading import File

Prepared = np.ndarray | dict[str, np.ndarray]
"""What `prepare` gives: the array of the modality's field, or several fields."""
INSIDE = ".inside"
"""Ends the name of the field that says which part of a padded array is data."""


@runtime_checkable
class Modality(Protocol):
    """One kind of data under one name. Implementations: all modules of this package."""

    @property
    def name(self) -> str:
        """Its field in a batch."""
        ...

    def prepare(self, raw: Any) -> Prepared:
        """Converts one raw example to an array that batches stack, or to several by the names of their fields.

        Raises ValueError saying what was found and what was expected.
        """
        ...

    def blank(self) -> np.ndarray:
        """An array of the shape and dtype that `prepare` gives."""
        ...


@runtime_checkable
class Encodable(Protocol):
    """What a stream needs of its modality where it is denoised as latents: any `Continuous` one, a `Text` too."""

    @property
    def name(self) -> str:
        """Its field in a batch."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example in model space."""
        ...

    def blank(self) -> np.ndarray:
        """See `Modality.blank`."""
        ...

    def to_model(self, raw: Array, /) -> Any:
        """See `Continuous.to_model`."""
        ...

    def from_model(self, x: Any, /) -> np.ndarray:
        """See `Continuous.from_model`."""
        ...


class Continuous(ABC):
    """The base class of denoised modalities: a frozen dataclass that defines these works in every model."""

    name: str
    takes_files: ClassVar[bool] = False
    """Whether `prepare` reads files by itself, without what `read` gives in between."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """`(*sizes, c)` of one example in model space."""

    @property
    @abstractmethod
    def cut(self) -> tuple[int, ...]:
        """Sizes of a patch along every axis but the last."""

    @property
    @abstractmethod
    def suffix(self) -> str:
        """Suffix of the files that `save` writes, with the dot."""

    @abstractmethod
    def prepare(self, raw: Any) -> Prepared:
        """See `Modality.prepare`."""

    @abstractmethod
    def to_model(self, raw: Array) -> Float[Array, "b ..."]:
        """A stack of prepared arrays to model space, float32 of about unit size."""

    @abstractmethod
    def from_model(self, x: Array | np.ndarray) -> np.ndarray:
        """Model space to raw values."""

    def load(self, path: Path) -> np.ndarray:
        """A file as a raw example. Raises ValueError saying what was found and what was expected."""
        raise ValueError(f"a {self.name} cannot be given as a file")

    def read(self, file: File) -> Any:
        """A file of a data set as a raw example, of its own size where `prepare` fits it; default: as `load`.

        Raises ValueError saying what was found and what was expected.
        """
        with file.on_disk() as path:
            return self.load(path)

    @property
    def varies(self) -> bool:
        """Whether `vary` does anything."""
        return False

    def vary(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """A training record with this field varied, before `prepare`; the generators of its fields are equal."""
        del rng
        return record

    @property
    def pads(self) -> bool:
        """Whether `prepare` also gives NAME.inside, int32 [axes, 2]."""
        return False

    def inside(self, bounds: Int[Array, "b a 2"]) -> Bool[Array, "b ..."]:
        """Which places of model space, `[b, *sizes, 1]`, the bounds of NAME.inside enclose."""
        found = jnp.ones((bounds.shape[0], *self.shape[:-1], 1), bool)
        for axis, size in enumerate(self.shape[:-1]):
            place = jnp.arange(size).reshape((size,) + (1,) * (len(self.shape) - 1 - axis))
            first, stop = (bounds[:, axis, end].reshape((-1,) + (1,) * len(self.shape)) for end in (0, 1))
            found &= (place >= first) & (place < stop)
        return found

    @abstractmethod
    def save(self, path: Path, example: np.ndarray) -> None:
        """One example of `from_model` as a file."""

    @abstractmethod
    def picture(self, example: np.ndarray) -> Any:
        """The example as a Pillow image, for an image grid."""

    def blank(self) -> np.ndarray:
        """Zeros of the shape and dtype that `prepare` gives, in place of an absent example."""
        return np.zeros(self.shape, np.float32)

    def open(self, prepared: np.ndarray) -> np.ndarray:
        """Prepared values as raw values."""
        return prepared

    def condition_form(self) -> ConditionForm:
        """As a condition: a map of its sizes, zeros where absent."""
        return ConditionForm(self.name, "map", self.shape[-1], null="zero")

    def to_condition(self, raw: Array) -> Float[Array, "b ..."]:
        """Its model space."""
        return self.to_model(raw)

    @property
    def tokens(self) -> int:
        """Patches of an example."""
        return math.prod(grid_of(self.shape[:-1], self.cut))

    @property
    def patch_features(self) -> int:
        """Numbers in a patch."""
        return math.prod(self.cut) * self.shape[-1]

    def patches(self, x: Float[Array, "b ..."]) -> Float[Array, "b n p"]:
        """Model space to patches; any number of channels, zero-padded to whole patches."""
        return patchify(x, self.cut)

    def unpatch(self, tokens: Float[Array, "b n p"]) -> Float[Array, "b ..."]:
        """The inverse of `patches`; the channels follow from the features."""
        return unpatchify(tokens, self.shape[:-1], self.cut)

    def positions(self) -> Int[np.ndarray, "n a"]:
        """Integer positions of the patches, with one to three axes."""
        return grid_positions(self.shape[:-1], self.cut)


def blanks(modality: Any) -> dict[str, np.ndarray]:
    """Every field that `prepare` gives, in place of an absent example; what is absent is all inside."""
    found = {modality.name: modality.blank()}
    if getattr(modality, "pads", False):
        sizes = modality.blank().shape[: len(modality.cut)]
        found[modality.name + INSIDE] = np.asarray([(0, size) for size in sizes], np.int32)
    return found


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
