r"""Distances of images by features, as stages and as fixed filters: what `Perceptual` adds to a reconstruction.

LpipsDistance    LPIPS with torchvision's and the lpips package's weights, from a folder with both files
RandomFeatures   unit vectors of a pyramid of random filters, compared as LPIPS compares them; no weights, and never
                 called LPIPS
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.interop import files, lpips
from unified_jax.layers.conv import convolve
from unified_jax.models.boxed import Boxed
from unified_jax.networks.lpips import Kind, Lpips, unit
from unified_jax.precision import seed_key
from unified_jax.typing import Params

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def as_rgb(x: Float[Array, "b h w c"]) -> Float[Array, "b h w 3"]:
    """Grey thrice, or the first three channels."""
    return jnp.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x[..., :3]


@dataclass(frozen=True)
class LpipsDistance(Boxed):
    """LPIPS, version 0.1, of images in [-1, 1]."""

    kind: Kind = "vgg"
    """The classifier."""

    @property
    def label(self) -> str:
        """Name of the loss term."""
        return f"lpips_{self.kind}"

    def _boxed(self, key: Array) -> Params:
        blank = jnp.zeros((1, 64, 64, 3))
        found: Any = Lpips(self.kind).init(key, blank, blank)
        return found["params"]

    def distance(self, params: Params, a: Array, b: Array) -> Float[Array, "b"]:
        """The distance of each pair."""
        found: Any = Lpips(self.kind).apply({"params": params}, as_rgb(a), as_rgb(b))
        return jnp.sum(found, axis=-1)

    def finds(self, source: str) -> bool:
        """See `Published`: a folder of weights that is no run."""
        path = Path(source)
        return path.is_dir() and not (path / "config.json").is_file() and bool(_weights(path))

    def read(self, source: str) -> Params:
        """See `Published`: torchvision's vgg16 or alexnet, and the linear layers of the lpips package."""
        tensors: dict[str, np.ndarray] = {}
        for path in _weights(Path(source)):
            tensors |= files.read(path)
        return lpips.read(f"The folder {source!r}", tensors, jax.eval_shape(self.init, seed_key(0)))


def _weights(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)


@dataclass(frozen=True)
class RandomFeatures:
    """A pyramid of random filters: 3 x 3 convolution, ReLU, means of 2 x 2, at each level."""

    widths: tuple[int, ...] = (16, 32, 64)
    """Filters of each level."""
    seed: int = 0
    """Of the filters."""

    @property
    def label(self) -> str:
        """Name of the loss term."""
        return "random_perceptual"

    def features(self, x: Float[Array, "b h w c"]) -> list[Float[Array, "b ..."]]:
        """What each level gives."""
        h, found = as_rgb(x), []
        for kernel in _filters(self.widths, self.seed):
            h = jax.nn.relu(convolve(h, jnp.asarray(kernel), (1, 1), None))
            found.append(h)
            if min(h.shape[1:3]) > 1:
                rows, columns = h.shape[1] // 2, h.shape[2] // 2
                h = h[:, : 2 * rows, : 2 * columns].reshape(len(h), rows, 2, columns, 2, -1).mean((2, 4))
        return found

    def distance(self, params: Params, a: Array, b: Array) -> Float[Array, "b"]:
        """The distance of each pair: squared differences of unit vectors, mean over places, summed over levels."""
        del params
        pairs = zip(self.features(a), self.features(b), strict=True)
        return jnp.sum(jnp.stack([jnp.mean(jnp.sum((unit(f) - unit(g)) ** 2, -1), (1, 2)) for f, g in pairs]), axis=0)


@functools.lru_cache(maxsize=8)
def _filters(widths: tuple[int, ...], seed: int) -> tuple[np.ndarray, ...]:
    draws, found, before = np.random.RandomState(seed), [], 3
    for width in widths:
        kernel = draws.standard_normal((3, 3, before, width)) / np.sqrt(4.5 * before)
        found.append(kernel.astype(np.float32))
        before = width
    return tuple(found)
