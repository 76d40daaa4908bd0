r"""Point clouds: float32 `[k, 3 + c]` of x, y, z (and colour) in [0, 1] outside, in [-1, 1] in model space.

A point cloud has no order, but tokens do. `prepare` sorts it along a space-filling curve (Morton's: the bits of x, y
and z interleaved). So the `per_token` points of a token are neighbours, token i always holds about the same part of
the point cloud, and patches of the sorted point cloud are exactly invertible.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unified_jax.modalities.base import Continuous, check_array
from unified_jax.modalities.meshes import read_cloud, write_ply
from unified_jax.modalities.reading import File

BITS = 10
"""Bits of each coordinate in the curve."""


def morton_order(xyz: Float[np.ndarray, "k 3"]) -> Int[np.ndarray, " k"]:
    """The order of points in the unit cube along the Z-curve; ties keep their order."""
    cells = np.clip(np.floor(xyz * 2**BITS), 0, 2**BITS - 1).astype(np.int64)
    code = np.zeros(len(xyz), np.int64)
    for bit in range(BITS):
        for axis in range(3):
            code |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    return np.argsort(code, kind="stable")


@dataclass(frozen=True)
class Points(Continuous):
    """Point clouds of a fixed number of points."""

    count: int = 256
    """Points of a point cloud."""
    features: int = 6
    """3 (position) or 6 (position and colour)."""
    per_token: int = 16
    """Points per token."""
    name: str = "points"
    """Field of the batch."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.per_token < 1 or self.features not in (3, 6):
            raise ValueError(f"Points needs positive sizes and 3 or 6 features, found {self}.")

    @property
    def shape(self) -> tuple[int, int]:
        """(k, features)."""
        return self.count, self.features

    @property
    def cut(self) -> tuple[int]:
        """Points of a token."""
        return (self.per_token,)

    @property
    def suffix(self) -> str:
        """PLY."""
        return ".ply"

    def prepare(self, raw: Any) -> Float[np.ndarray, "k c"]:
        """A finite point cloud in the unit cube; its first `count` points are kept and sorted."""
        value = np.asarray(raw)
        if value.ndim == 2 and len(value) < self.count:
            raise ValueError(f"expected at least {self.count} points, found {len(value)}")
        if value.ndim == 2:
            value = value[: self.count]
        value = check_array(value, self.shape, np.float32)
        if value.min() < -1e-4 or value.max() > 1 + 1e-4:
            raise ValueError(
                f"expected coordinates and colours in [0, 1], found {value.min():.3g} .. {value.max():.3g}"
            )
        return value[morton_order(value[:, :3])]

    def to_model(self, raw: Array) -> Float[Array, "b k c"]:
        """[0, 1] to [-1, 1]."""
        return 2.0 * raw - 1.0

    def from_model(self, x: Array | np.ndarray) -> Float[np.ndarray, "b k c"]:
        """[-1, 1] to [0, 1], clipped."""
        return np.clip((np.asarray(x, np.float32) + 1) / 2, 0, 1)

    def to_prepared(self, x: Array) -> Float[Array, "b k c"]:
        """The same in a program, sorted as `prepare` sorts, for the links of a chain."""
        value = jnp.clip((x + 1) / 2, 0, 1)
        cells = jnp.clip(jnp.floor(value[..., :3] * 2**BITS), 0, 2**BITS - 1).astype(jnp.int32)
        code = sum(((cells[..., axis] >> bit) & 1) << (3 * bit + axis) for bit in range(BITS) for axis in range(3))
        return jnp.take_along_axis(value, jnp.argsort(code, axis=1, stable=True)[..., None], axis=1)

    def read(self, file: File) -> Float[np.ndarray, "k c"]:
        """A file as `load` reads it, not yet sorted; what it names (materials, images) lies beside it."""
        with file.on_disk() as path:
            return read_cloud(path, self.count, self.features == 6)

    def load(self, path: Path) -> Float[np.ndarray, "k c"]:
        """A point cloud (PLY) or a mesh (PLY, OBJ, GLB), scaled into the unit cube."""
        return self.prepare(read_cloud(path, self.count, self.features == 6))

    def save(self, path: Path, example: Float[np.ndarray, "k c"]) -> None:
        """One point cloud as PLY, with an image of it."""
        write_ply(path, example)
        self.picture(example).save(path.with_suffix(".png"))

    def picture(self, example: Float[np.ndarray, "k c"]) -> Any:
        """The point cloud from the front, slightly rotated, near points over far ones."""
        from PIL import Image as Pillow, ImageDraw

        side, turn = 96, 0.35
        canvas = Pillow.new("RGB", (side, side), (16, 16, 18))
        draw = ImageDraw.Draw(canvas)
        x, y, z = (example[:, :3] - 0.5).T
        across, away = x * np.cos(turn) + z * np.sin(turn), z * np.cos(turn) - x * np.sin(turn)
        colour = example[:, 3:] if example.shape[1] == 6 else np.repeat(0.4 + 0.6 * (z[:, None] + 0.5), 3, axis=1)
        for i in np.argsort(away):
            px, py = (across[i] * 0.9 + 0.5) * side, (0.5 - y[i] * 0.9) * side
            shade = tuple(int(v) for v in np.clip(colour[i] * (0.7 + 0.4 * (away[i] + 0.5)), 0, 1) * 255)
            draw.ellipse([px - 1.2, py - 1.2, px + 1.2, py + 1.2], fill=shade)
        return canvas
