"""Shared by the two matmul kernels: the tile sizes, and the grid of output tiles."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

ROWS = 64
"""Rows of one consumer: the height of a wgmma."""


@dataclass(frozen=True)
class Tiles:
    """One program computes 2 * ROWS rows of `columns` outputs, over chunks of `depth` features."""

    columns: int
    depth: int = 64
    stages: int = 3

    @property
    def rows(self) -> int:
        """Rows of one program: 64 for each consumer."""
        return 2 * ROWS


def tiles_for(columns: int, stages: int, widest: int = 256) -> Tiles:
    """The widest tile that divides the outputs, else the widest: TMA clips at the border."""
    fits = [width for width in (256, 192, 128) if width <= widest and columns % width == 0]
    return Tiles((fits or [widest])[0], stages=stages)


def tile_at(examples: int, rows: int, columns: int) -> tuple[Array, Array, Array]:
    """(example, block of rows, block of columns) of this program, in an order that reuses the second-level cache.

    Programs that run at the same time, about 132, then share 16 blocks of rows and 8 of columns.
    """
    line, column = plgpu.planar_snake(lax.axis_index("tile"), (examples * rows, columns), minor_dim=0, tile_width=16)
    return lax.div(line, jnp.int32(rows)), lax.rem(line, jnp.int32(rows)), column


def pad_axis(x: Array, axis: int, multiple: int) -> Array:
    """x with zeros up to a multiple along one axis."""
    rest = [(0, 0)] * x.ndim
    rest[axis] = (0, -x.shape[axis] % multiple)
    return jnp.pad(x, rest)
