"""Points of a grid of narrow Gaussians in the plane: a distribution whose modes can be counted.

The classic test of what a GAN drops. The centres are evenly spaced over the
unit square, half a cell from its border.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from unified_jax.errors import UserError

SEEDS = {"train": 0, "test": 1}


@dataclass(frozen=True)
class Gaussians:
    """`side` x `side` Gaussians of equal weight; fields `point` `[1, 2]`, in [0, 1], and `mode`."""

    side: int = 5
    """Gaussians along each axis."""
    width: float = 0.01
    """Their standard deviation."""
    count: int = 100_000
    """Examples of a split."""

    def __post_init__(self) -> None:
        if min(self.side, self.count) < 1 or not 0 < self.width < 0.5 / self.side:
            raise ValueError(
                f"Gaussians need side and count >= 1 and a width below half a cell, found {self.side}, {self.count} "
                f"and {self.width}."
            )

    @property
    def name(self) -> str:
        """Its name."""
        return f"{self.side} x {self.side} Gaussians"

    @property
    def centres(self) -> Float[np.ndarray, "m 2"]:
        """Centre of each mode."""
        ticks = (np.arange(self.side) + 0.5) / self.side
        return np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2)

    def parts(self, split: str, fields: tuple[str, ...]) -> tuple[tuple[float, str, Any], ...]:
        """See `DataSet`."""
        if split not in SEEDS:
            raise UserError(f"{self.name} have the splits {' and '.join(SEEDS)}, found {split!r}.")
        if unknown := sorted(set(fields) - {"point", "mode"}):
            raise UserError(f"{self.name} have the fields point and mode, found {', '.join(unknown)}.")
        return ((1.0, f"{self.name}, {split}", _Points(self, SEEDS[split])),)


class _Points:
    def __init__(self, data: Gaussians, seed: int) -> None:
        rng = np.random.Generator(np.random.Philox(key=seed))
        self.mode = rng.integers(len(data.centres), size=data.count)
        noise = rng.standard_normal((data.count, 2))
        self.point = (data.centres[self.mode] + data.width * noise)[:, None].astype(np.float32)

    def __len__(self) -> int:
        return len(self.mode)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"point": self.point[index], "mode": int(self.mode[index])}
