r"""Reading depth maps (by matching pursuit, as images) and point clouds (by likelihood).

A point cloud is one object, or two if its points fall into two groups with an empty strip of at least `STRIP` between
them (objects keep a larger distance). An object's colour is the one nearest to its points' mean. Its shape, size and
centre c maximise the likelihood of its N points under a uniform density on the shape, with a little everywhere else,

    sum_i log( (1 - OUTSIDE) 1[s((p_i - c) / r) < SOFT] / area + OUTSIDE )

over all shapes and sizes and over centres near the mean of the points, which is the centre up to sampling error because
the centroid of every shape is its origin.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Num

from unified_jax.data.world.match import Kind, search
from unified_jax.data.world.read import Reading, follow, make_reading, place_at, shrink
from unified_jax.data.world.render import MIN_RESOLUTION, signed_distance
from unified_jax.data.world.scene import COLOUR_RGB, RADII, SHAPES, SIZES
from unified_jax.data.world.solid import nearness

STRIP = 0.025
OUTSIDE = 0.02
SOFT = 0.06
LEAST_POINTS = 32

_RELIEF = Kind(nearness, ((1.0,),))


def read_depth(depth: Num[np.ndarray, "..."]) -> Reading:
    """Reads depth maps [b, r, r, 1] or videos [b, f, r, r, 1], float in [0, 1]: all but colour."""
    if depth.ndim not in (4, 5) or depth.shape[-1] != 1 or depth.shape[-2] != depth.shape[-3]:
        raise ValueError(f"Depth must have the shape [b, r, r, 1] or [b, f, r, r, 1]; found {list(depth.shape)}.")
    if depth.shape[-2] < MIN_RESOLUTION:
        raise ValueError(f"Depth must have at least {MIN_RESOLUTION} rows; found {depth.shape[-2]}.")
    frames = depth.shape[1] if depth.ndim == 5 else 1
    flat = depth.reshape((-1,) + depth.shape[-3:])
    near = 1 - np.where(np.isfinite(flat), np.clip(flat, -1, 2), 1).astype(np.float32)
    return follow(search(_RELIEF, shrink(near)), frames, colours=False)


@lru_cache(maxsize=1)
def _areas() -> Float[np.ndarray, "s"]:
    """Area of each shape of radius one, up to SOFT, from a fine grid."""
    line = (np.arange(801) / 400 - 1).astype(np.float32) * np.float32(1.1)
    inside = [signed_distance(shape, line[None, :], line[:, None]) < SOFT for shape in range(len(SHAPES))]
    return np.asarray([cells.mean() * 2.2**2 for cells in inside])


def read_points(clouds: Num[np.ndarray, "..."]) -> Reading:
    """Reads point clouds [b, k, 6] of x, y (upward), z and colour in [0, 1], k of 32 or more: all but motion."""
    if clouds.ndim != 3 or clouds.shape[2] != 6 or clouds.shape[1] < LEAST_POINTS:
        raise ValueError(
            f"Point clouds to be read must have the shape [b, k >= {LEAST_POINTS}, 6]; found {list(clouds.shape)}."
        )
    clouds = np.nan_to_num(clouds.astype(np.float64), nan=0.5, posinf=1.0, neginf=0.0)
    count = np.zeros(len(clouds), np.int32)
    shape, size, colour = (np.zeros((len(clouds), 2), np.int32) for _ in range(3))
    centre, fit = np.zeros((len(clouds), 2, 2)), np.zeros((len(clouds), 2))
    for b, cloud in enumerate(clouds):
        groups = _groups(cloud)
        count[b] = len(groups)
        read = [_read_object(group) for group in groups]
        order = np.argsort(place_at(np.stack([one[3] for one in read])), kind="stable")
        for slot, one in enumerate(order):
            shape[b, slot], size[b, slot], colour[b, slot], centre[b, slot], fit[b, slot] = read[one]
    return make_reading(
        count, centre, fit, 1 - fit.min(1), shape=shape, size=size, colour=colour, place=place_at(centre)
    )


def _groups(cloud: np.ndarray) -> list[np.ndarray]:
    """The point cloud, or its two parts."""
    plane = cloud[:, :2]
    far = plane[np.square(plane - plane.mean(0)).sum(1).argmax()]
    means = np.stack([far, plane[np.square(plane - far).sum(1).argmax()]])
    for _ in range(20):
        own = np.square(plane[:, None] - means).sum(2).argmin(1)
        if min((own == 0).sum(), (own == 1).sum()) < len(plane) // 8:
            return [cloud]
        means = np.stack([plane[own == 0].mean(0), plane[own == 1].mean(0)])
    axis = means[1] - means[0]
    along = plane @ (axis / max(np.linalg.norm(axis), 1e-9))
    # Percentiles, not extremes: noise may put a few points into the strip.
    apart = np.quantile(along[own == 1], 0.01) - np.quantile(along[own == 0], 0.99)
    return [cloud[own == 0], cloud[own == 1]] if apart > STRIP else [cloud]


def _read_object(points: np.ndarray) -> tuple[int, int, int, np.ndarray, float]:
    """(shape, size, colour, centre, share of the points inside) of one object's points."""
    mean = points.mean(0)
    colour = np.square(mean[3:] - COLOUR_RGB / 255).sum(1).argmin()
    x, y = points[:, 0], 1 - points[:, 1]
    middle, spread = np.array([mean[0], 1 - mean[1]]), 3 * max(x.std(), y.std()) / np.sqrt(len(x))
    best, found = -np.inf, None
    shifts = np.linspace(-spread, spread, 5)
    for dy in shifts:
        cx, cy = middle[0] + shifts[:, None], middle[1] + dy
        for size in range(len(SIZES)):
            u, v = (x - cx) / RADII[size], np.broadcast_to((y - cy) / RADII[size], (5, len(y)))
            for shape in range(len(SHAPES)):
                inside = (signed_distance(shape, u, v) < SOFT).mean(1)
                density = (1 - OUTSIDE) / (_areas()[shape] * RADII[size] ** 2)
                score = inside * np.log(density + OUTSIDE) + (1 - inside) * np.log(OUTSIDE)
                if score.max() > best:
                    k = int(score.argmax())
                    best, found = score[k], (shape, size, int(colour), np.array([cx[k, 0], cy]), float(inside[k]))
    assert found is not None
    return found
