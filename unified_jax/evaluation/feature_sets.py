"""Sets of features that are compared: vectors, or only their moments as published statistics hold them.

Statistics files (.npz), read and written:

    mu, sigma        mean and covariance of the pooled features (pytorch-fid, clean-fid, ADM)
    mu_s, sigma_s    those of sFID's (ADM)
    arr_0            ADM's reference batches also hold images, uint8 [n, h, w, 3]
    extractor, n     in our files: the label of the extractor, the number of images
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from unified_jax.errors import UserError
from unified_jax.evaluation.distances import moments


class Moments(NamedTuple):
    """Mean and covariance of features."""

    mean: Float[np.ndarray, "d"]
    cov: Float[np.ndarray, "d d"]


POOL, SPATIAL, LOGITS = "pool", "spatial", "logits"
"""Kinds of features: one vector an image; the map of sFID, flattened; class scores of the Inception score."""
NAMES = {POOL: ("mu", "sigma"), SPATIAL: ("mu_s", "sigma_s")}
"""Kind of features -> names of its mean and covariance in a file."""


@runtime_checkable
class FeatureSet(Protocol):
    """The features of a set of images by one extractor."""

    @property
    def name(self) -> str:
        """What the set is, in rows and sentences."""
        ...

    @property
    def count(self) -> int:
        """Images; 0 if unknown."""
        ...

    def vectors(self, kind: str) -> Float[np.ndarray, "n d"] | None:
        """The features of a kind; None where only moments are known, or not even they."""
        ...

    def moments(self, kind: str) -> Moments | None:
        """Their mean and covariance."""
        ...

    def published(self, kind: str) -> bool:
        """Whether the moments were read from a file: they need not be those of the vectors."""
        ...


@dataclass(frozen=True)
class Vectors:
    """Features that are at hand."""

    name: str
    arrays: Mapping[str, np.ndarray]
    """Kind -> [n, d]; read when they are asked for, if the mapping does so."""
    known: Mapping[str, Moments] = field(default_factory=dict)
    """Moments that were published with the images, and hold for a larger set."""

    @property
    def count(self) -> int:
        """See `FeatureSet`."""
        return len(self.arrays[POOL])

    def vectors(self, kind: str) -> Float[np.ndarray, "n d"] | None:
        """See `FeatureSet`."""
        return self.arrays.get(kind)

    def moments(self, kind: str) -> Moments | None:
        """See `FeatureSet`."""
        if kind in self.known:
            return self.known[kind]
        return Moments(*moments(self.arrays[kind])) if kind in self.arrays else None

    def published(self, kind: str) -> bool:
        """See `FeatureSet`."""
        return kind in self.known


@dataclass(frozen=True)
class Statistics:
    """Moments alone."""

    name: str
    known: Mapping[str, Moments]
    count: int = 0

    def vectors(self, kind: str) -> None:
        """None."""

    def moments(self, kind: str) -> Moments | None:
        """See `FeatureSet`."""
        return self.known.get(kind)

    def published(self, kind: str) -> bool:
        """See `FeatureSet`."""
        return kind in self.known


@dataclass(frozen=True)
class Published:
    """The moments of a file."""

    known: Mapping[str, Moments] = field(default_factory=dict)
    """By kind."""
    label: str = ""
    """The extractor's; empty where the file does not say, as in files of others, which are Inception's."""
    count: int = 0
    """Images; 0 if unknown."""

    def of(self, label: str) -> Mapping[str, Moments]:
        """Those that an extractor's features are compared with; {} for another extractor."""
        same = self.label == label or (not self.label and label.startswith("inception"))
        return self.known if same else {}


def read_statistics(path: Path) -> Published:
    """The moments of a file, if it holds some. Raises UserError for one that does not hold together."""
    names = [*(name for pair in NAMES.values() for name in pair), "extractor", "n"]
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in names if name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise UserError(f"The file {str(path)!r} cannot be read as .npz: {str(error)[:200]}.") from None
    found: dict[str, Moments] = {}
    for kind, (mean, cov) in NAMES.items():
        if mean not in held and cov not in held:
            continue
        if mean not in held or cov not in held:
            raise UserError(f"The file {str(path)!r} holds only one of {mean} and {cov}; expected both.")
        mu, sigma = np.asarray(held[mean], np.float64), np.asarray(held[cov], np.float64)
        if (
            mu.ndim != 1
            or sigma.shape != (len(mu), len(mu))
            or not (np.isfinite(mu).all() and np.isfinite(sigma).all())
        ):
            raise UserError(
                f"The file {str(path)!r} holds {mean} {list(mu.shape)} and {cov} {list(sigma.shape)}; expected finite "
                "numbers [d] and [d, d]."
            )
        if not np.allclose(sigma, sigma.T, rtol=1e-4, atol=1e-6 * max(1.0, float(np.abs(sigma).max()))):
            raise UserError(f"{cov} of the file {str(path)!r} is not symmetric, so it is no covariance.")
        found[kind] = Moments(mu, sigma)
    return Published(found, str(held.get("extractor", "")), int(held.get("n", 0)))


def statistics_of(one: FeatureSet, label: str) -> dict[str, np.ndarray]:
    """The arrays of a statistics file. Raises UserError for a set without them."""
    found: dict[str, np.ndarray] = {}
    for kind, names in NAMES.items():
        if (known := one.moments(kind)) is not None:
            found |= dict(zip(names, known, strict=True))
    if not found:
        raise UserError(f"The set {one.name} has no statistics to write.")
    return found | {"extractor": np.array(label), "n": np.array(one.count)}
