"""Tiles that overlap, each computed by itself, faded into each other; and how visible their seams are."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float


def blended(
    run: Callable[[Array], Array], x: Float[Array, "b h w c"], tile: int, overlap: float, factor: float
) -> Float[Array, "b m n d"]:
    """The output of `run` on tiles of x.

    A tile starts every (1 - overlap) of its side. Its output is `factor` times as large; the share `overlap` of it is
    faded linearly into the end of the tile above, then of the one on the left.
    """
    step, made = int(tile * (1 - overlap)), int(tile * factor)
    fade = int(made * overlap)
    keep = made - fade
    above: list[Array] = []
    rows = []
    for i in range(0, x.shape[1], step):
        row: list[Array] = []
        for n, j in enumerate(range(0, x.shape[2], step)):
            y = run(x[:, i : i + tile, j : j + tile])
            y = faded(above[n], y, fade, 1) if above else y
            row.append(faded(row[-1], y, fade, 2) if row else y)
        rows.append(jnp.concatenate([y[:, :keep, :keep] for y in row], axis=2))
        above = row
    return jnp.concatenate(rows, axis=1)


def faded(a: Float[Array, "b h w c"], b: Float[Array, "b h2 w2 c"], extent: int, axis: int) -> Array:
    """b, whose first positions along an axis fade in from the last ones of a."""
    extent = min(a.shape[axis], b.shape[axis], extent)
    if not extent:
        return b
    shape = [1] * 4
    shape[axis] = extent
    share = (jnp.arange(extent) / extent).reshape(shape)
    ends = [slice(None)] * 4
    ends[axis] = slice(a.shape[axis] - extent, None)
    size = min(a.shape[3 - axis], b.shape[3 - axis])
    first = [slice(None)] * 4
    first[axis] = slice(0, extent)
    first[3 - axis] = ends[3 - axis] = slice(0, size)
    return b.at[tuple(first)].set(a[tuple(ends)] * (1 - share) + b[tuple(first)] * share)


def seams(y: Float[Array, "b h w c"], rows: Sequence[int], columns: Sequence[int]) -> Float[Array, ""]:
    """The mean step between neighbouring positions at the seams, over that everywhere: 1 where they cannot be seen.

    `rows` and `columns` are the first ones of a tile, without 0.
    """
    along = [jnp.mean(jnp.abs(jnp.diff(y, axis=axis)), axis=(0, 3 - axis, 3)) for axis in (1, 2)]
    at = [step[jnp.asarray(list(first), jnp.int32) - 1] for step, first in zip(along, (rows, columns), strict=True)]
    return jnp.mean(jnp.concatenate(at)) / jnp.mean(jnp.concatenate(along))
