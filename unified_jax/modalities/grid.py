"""Arrays `[b, *sizes, c]` as patches `[b, n, p]` and back, for any number of axes.

Patches run along the grid with the last axis fastest; a patch's features are ordered the same way, the channel last.
Sizes are zero-padded to multiples of the patch, which `unpatchify` crops again: the two are exact inverses.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def grid_of(sizes: tuple[int, ...], patch: tuple[int, ...]) -> tuple[int, ...]:
    """Patches along each axis."""
    return tuple(-(-size // part) for size, part in zip(sizes, patch, strict=True))


def patchify(x: Float[Array, "b ..."], patch: tuple[int, ...]) -> Float[Array, "b n p"]:
    """`[b, *sizes, c]` to `[b, product of the grid, product of the patch * c]`."""
    sizes, axes = x.shape[1:-1], len(patch)
    grid = grid_of(sizes, patch)
    fill = [(0, g * p - s) for s, g, p in zip(sizes, grid, patch, strict=True)]
    if any(after for _, after in fill):
        x = jnp.pad(x, [(0, 0), *fill, (0, 0)])
    cut = [part for pair in zip(grid, patch, strict=True) for part in pair]
    x = x.reshape((x.shape[0], *cut, x.shape[-1]))
    order = [0, *(1 + 2 * i for i in range(axes)), *(2 + 2 * i for i in range(axes)), 1 + 2 * axes]
    return x.transpose(order).reshape(x.shape[0], math.prod(grid), -1)


def unpatchify(tokens: Float[Array, "b n p"], sizes: tuple[int, ...], patch: tuple[int, ...]) -> Float[Array, "b ..."]:
    """The inverse of `patchify` for these sizes; the channels follow from the features."""
    axes, grid = len(patch), grid_of(sizes, patch)
    x = tokens.reshape((tokens.shape[0], *grid, *patch, -1))
    order = [0, *(place for i in range(axes) for place in (1 + i, 1 + axes + i)), 1 + 2 * axes]
    whole = tuple(g * p for g, p in zip(grid, patch, strict=True))
    x = x.transpose(order).reshape((tokens.shape[0], *whole, -1))
    return x[(slice(None), *(slice(size) for size in sizes))]


def grid_positions(sizes: tuple[int, ...], patch: tuple[int, ...]) -> Int[np.ndarray, "n a"]:
    """The grid position of every patch.

    >>> grid_positions((4, 4), (2, 2)).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    places = np.meshgrid(*(np.arange(g) for g in grid_of(sizes, patch)), indexing="ij")
    return np.stack(places, axis=-1).reshape(-1, len(patch)).astype(np.int32)
