"""Actions: trajectories `[steps, 2]` of (x, y) in [0, 1] outside, y downward; in [-1, 1] in model space."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from unified_jax.modalities.base import Continuous, check_array
from unified_jax.modalities.reading import read_table


@dataclass(frozen=True)
class Action(Continuous):
    """Trajectories of one length. Values outside [0, 1] are kept: a trajectory may leave the canvas."""

    steps: int = 16
    """Points of a trajectory."""
    features: int = 2
    """Coordinates per point."""
    patch: int = 4
    """Points per token."""
    name: str = "action"
    """Field of the batch."""

    def __post_init__(self) -> None:
        if min(self.steps, self.features, self.patch) < 1:
            raise ValueError(f"Action sizes must be positive, found {self}.")

    @property
    def shape(self) -> tuple[int, int]:
        """(steps, features)."""
        return self.steps, self.features

    @property
    def cut(self) -> tuple[int]:
        """Points of a patch."""
        return (self.patch,)

    @property
    def suffix(self) -> str:
        """A table, one point per line."""
        return ".csv"

    def prepare(self, raw: Any) -> Float[np.ndarray, "s c"]:
        """A float array of this shape."""
        return check_array(raw, self.shape, np.float32)

    def to_model(self, raw: Array) -> Float[Array, "b s c"]:
        """[0, 1] to [-1, 1]."""
        return 2.0 * raw - 1.0

    def from_model(self, x: Array | np.ndarray) -> Float[np.ndarray, "b s c"]:
        """[-1, 1] to [0, 1]."""
        return (np.asarray(x, np.float32) + 1) / 2

    def to_prepared(self, x: Array) -> Float[Array, "b s c"]:
        """The same in a program, for the links of a chain."""
        return (x + 1) / 2

    def load(self, path: Path) -> Float[np.ndarray, "s c"]:
        """A table of numbers separated by commas, one point per line."""
        return self.prepare(read_table(path))

    def save(self, path: Path, example: Float[np.ndarray, "s c"]) -> None:
        """One trajectory as a table."""
        np.savetxt(path, example, delimiter=",", fmt="%.5f")

    def picture(self, example: Float[np.ndarray, "s c"]) -> Any:
        """The trajectory, from pale to dark."""
        from PIL import Image as Pillow, ImageDraw

        side = 96
        canvas = Pillow.new("RGB", (side, side), "white")
        draw = ImageDraw.Draw(canvas)
        points = [tuple(float(v) for v in np.clip(point[:2], -0.1, 1.1) * (side - 1)) for point in example]
        for i, (a, b) in enumerate(itertools.pairwise(points)):
            shade = round(200 - 180 * i / max(1, len(points) - 2))
            draw.line([a, b], fill=(shade, shade, 230), width=2)
        x, y = points[-1]
        draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=(200, 30, 30))
        return canvas
