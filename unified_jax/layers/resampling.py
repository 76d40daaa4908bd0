r"""Resampling of grids along their axes by matrices: tables of positions, and images.

    y = R x C^T        R, C one row of weights per output place, from a kernel k around its centre
    linear      k(u) = 1 - |u|
    cubic       the piecewise cubic of Keys (1981) with the slope a = -3/4 at 1; with `antialias` a = -1/2

Output i reads the source at (i + 1/2) n / m - 1/2. With `antialias` the kernel is stretched where the grid shrinks and
the weights of places outside are left out (Pillow's filters); without, places outside are those at the edge (torch's
`interpolate` with `align_corners=False`).
"""

import functools
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.precision import EXACT

Kind = Literal["linear", "cubic"]


def kernel(u: Float[np.ndarray, "*s"], kind: Kind, antialias: bool) -> Float[np.ndarray, "*s"]:
    """The weight of a place at distance u."""
    u = np.abs(u)
    if kind == "linear":
        return np.maximum(1 - u, 0.0)
    a = -0.5 if antialias else -0.75
    near = ((a + 2) * u - (a + 3)) * u * u + 1
    far = ((u - 5) * u + 8) * u * a - 4 * a
    return np.where(u <= 1, near, np.where(u < 2, far, 0.0))


@functools.lru_cache(maxsize=64)
def matrix(source: int, target: int, kind: Kind, antialias: bool = False) -> Float[np.ndarray, "t s"]:
    """Weights of the source's places for each of the target's, float32."""
    reach = 1 if kind == "linear" else 2
    centre = (np.arange(target) + 0.5) * source / target - 0.5
    if antialias:
        stretch = max(source / target, 1.0)
        weights = kernel((np.arange(source) - centre[:, None]) / stretch, kind, True)
        return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    places = np.floor(centre)[:, None].astype(int) + np.arange(1 - reach, reach + 1)
    weights = kernel(places - centre[:, None], kind, False)
    found = np.zeros((target, source))
    np.add.at(found, (np.arange(target)[:, None], np.clip(places, 0, source - 1)), weights)
    return found.astype(np.float32)


def resample(
    grid: Float[Array, "*s h w d"], sizes: tuple[int, int], kind: Kind, antialias: bool = False
) -> Float[Array, "*s r c d"]:
    """The grid at other sizes, float32; of these sizes: unchanged."""
    if grid.shape[-3:-1] == sizes:
        return grid
    rows, columns = (matrix(n, m, kind, antialias) for n, m in zip(grid.shape[-3:-1], sizes, strict=True))
    grid = jnp.einsum("rh,...hwd->...rwd", rows, grid.astype(jnp.float32), precision=EXACT)
    return jnp.einsum("cw,...rwd->...rcd", columns, grid, precision=EXACT)
