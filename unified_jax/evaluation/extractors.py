"""Extractors: networks whose features are compared, with the preprocessing that belongs to each.

An extractor is a frozen dataclass; one of your own has the same members. Its label is part of every number that is
made with it, since numbers of different extractors, weights or preprocessing are not comparable.

    Inception      FID, sFID, KID, IS, precision and recall as papers print them; weights from a file
    PooledPixels   mean colours of a grid: no weights, sees layout and no detail
    Encoded        any encoder of a run: a classifier, or an encoder trained on the set without labels
"""

import functools
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from unified_jax.evaluation.distances import pooled_pixels
from unified_jax.evaluation.feature_sets import LOGITS, POOL, SPATIAL
from unified_jax.evaluation.inception import load_inception
from unified_jax.evaluation.preprocessing import MODES, Mode, as_rgb, prepare
from unified_jax.modalities.fitting import fit_array
from unified_jax.networks import inception
from unified_jax.typing import Params


@runtime_checkable
class Extractor(Protocol):
    """A network whose features are compared."""

    @property
    def label(self) -> str:
        """Its name, with weights and preprocessing: what a number must be compared within."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """The features that it gives: "pool", and "spatial" and "logits" if it has them."""
        ...

    def load(self) -> Params:
        """Its parameters, {} if it has none. Raises UserError for weights that are missing or do not fit."""
        ...

    def prepare(self, image: UInt8[np.ndarray, "h w c"]) -> Float[np.ndarray, "..."]:
        """The network's input, of one size for images of any. Raises ValueError for what is no picture."""
        ...

    def features(self, params: Params, x: Float[Array, "b ..."]) -> dict[str, Float[Array, "b d"]]:
        """The features of a stack of inputs, by kind; pure."""
        ...


@dataclass(frozen=True)
class Inception:
    """Inception v3's features, as Frechet distances use them."""

    weights: str
    """The file: pytorch-fid's pt_inception-2015-12-05, torch-fidelity's, or torchvision's (named so in the label)."""
    preprocessing: Mode = "adm"
    """The resizing: 'adm', 'torch_fidelity', 'pytorch_fid' or 'clean' (`evaluation.preprocessing`)."""
    kinds: tuple[str, ...] = (POOL, SPATIAL, LOGITS)
    """The features that are kept; of FID alone 'pool'."""

    def __post_init__(self) -> None:
        if self.preprocessing not in MODES:
            raise ValueError(f"The preprocessing {self.preprocessing!r} is unknown; expected {', '.join(MODES)}.")
        if not self.kinds or not {*self.kinds} <= {POOL, SPATIAL, LOGITS}:
            raise ValueError(
                f"Inception gives {POOL}, {SPATIAL} and {LOGITS}; asked for {', '.join(self.kinds) or '-'}."
            )

    @property
    def label(self) -> str:
        """Such as "inception (fid, 1a2b3c4d) adm": the graph, the file's digest, the preprocessing."""
        return f"inception ({self._variant()[0]}, {file_digest(self.weights)}) {self.preprocessing}"

    def _variant(self) -> tuple[inception.Variant, Params]:
        return _read_inception(self.weights)

    def load(self) -> Params:
        """See `Extractor`."""
        return self._variant()[1]

    def prepare(self, image: UInt8[np.ndarray, "h w c"]) -> Float[np.ndarray, "299 299 3"]:
        """See `Extractor`."""
        return prepare(image[None], self.preprocessing)[0]

    def features(self, params: Params, x: Float[Array, "b 299 299 3"]) -> dict[str, Float[Array, "b d"]]:
        """See `Extractor`. The logits are without bias, as the Inception score of ADM and torch-fidelity reads them."""
        variant: inception.Variant = "fid" if params["bias"].shape[0] == inception.CLASSES["fid"] else "torchvision"
        found = inception.Inception(variant).apply({"params": params}, x)
        assert isinstance(found, dict)
        names = {POOL: "pool", SPATIAL: "spatial", LOGITS: "unbiased_logits"}
        return {kind: found[names[kind]] for kind in self.kinds}


@dataclass(frozen=True)
class PooledPixels:
    """Mean colours of a side x side grid of cells."""

    side: int = 4
    """Cells a side; images must have at least as many pixels."""

    @property
    def label(self) -> str:
        """Its name and side."""
        return f"pixels ({self.side} x {self.side})"

    @property
    def kinds(self) -> tuple[str, ...]:
        """One vector an image."""
        return (POOL,)

    def load(self) -> Params:
        """Nothing."""
        return {}

    def prepare(self, image: UInt8[np.ndarray, "h w c"]) -> Float[np.ndarray, "d"]:
        """The cells' means in [-1, 1], RGB."""
        rgb = as_rgb(image[None])[0]
        if min(rgb.shape[:2]) < self.side:
            raise ValueError(f"it has {rgb.shape[0]} x {rgb.shape[1]} pixels; a grid of {self.side} needs more")
        return pooled_pixels(rgb[None].astype(np.float64) / 127.5 - 1.0, self.side)[0].astype(np.float32)

    def features(self, params: Params, x: Float[Array, "b d"]) -> dict[str, Float[Array, "b d"]]:
        """The means as they are."""
        return {POOL: x}


@dataclass(frozen=True)
class Encoded:
    """The vectors of a model with `encode(params, x) -> models.stages.Encoded`: pooled, or the mean of its tokens."""

    name: str
    """Its name in the label."""
    model: Any
    """The encoder."""
    modality: Any
    """Its picture: images are read and fitted by it."""
    params: Any = field(compare=False, repr=False)
    """Its parameters."""
    digest: str = ""
    """Of the parameters: two encoders of one name are told apart by it."""

    @property
    def label(self) -> str:
        """Its name and digest."""
        return f"{self.name} ({self.digest})" if self.digest else self.name

    @property
    def kinds(self) -> tuple[str, ...]:
        """One vector an image."""
        return (POOL,)

    def load(self) -> Params:
        """The given ones."""
        return self.params

    def prepare(self, image: UInt8[np.ndarray, "h w c"]) -> np.ndarray:
        """The picture at the encoder's size: by its modality's fit, or resized where that is "exact"."""
        one = image.mean(-1, keepdims=True).round().astype(np.uint8) if self.modality.channels == 1 else image
        one = as_rgb(one[None])[0] if self.modality.channels == 3 else one
        fit = self.modality.fit if self.modality.fit in ("center_crop", "resize") else "resize"
        return self.modality.prepare(fit_array(one, self.modality.shape[:2], fit, None))

    def features(self, params: Params, x: Array) -> dict[str, Float[Array, "b d"]]:
        """See `Extractor`."""
        found = self.model.encode(params, x)
        if found.pooled is not None:
            return {POOL: found.pooled}
        shown = found.tokens if found.tokens is not None else found.map.reshape(len(x), -1, found.map.shape[-1])
        return {POOL: jnp.mean(shown, axis=1)}


@functools.lru_cache(maxsize=1)
def _read_inception(path: str) -> tuple[inception.Variant, Params]:
    return load_inception(Path(path).expanduser())


@functools.lru_cache(maxsize=8)
def file_digest(path: str) -> str:
    """Eight digits of a file's SHA-256."""
    with open(Path(path).expanduser(), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
