r"""The scene as a relief: depth maps, and coloured point clouds on the surfaces.

The background is a wall at distance 1 from the viewer. Each object has a height z above it that grows from its outline
inward to a plateau,

    z(s) = FOOT + (PLATEAU - FOOT) clip(-s / BEVEL, 0, 1)          s < 0: the signed distance of `render`, in radii

so that all objects have the same thickness and a small one is as near as a large one.

*Depth* of a pixel is 1 - coverage z: the mean over its four quarters, anti-aliased as the image is. float32 in
[0, 1].

*Points.* k points are uniform over the objects (as seen from the front), half of them on each of two; x points right, y
up and z towards the viewer, all in [0, 1], each with its object's colour in [0, 1]: float32 [k, 6].
"""

import numpy as np
from jaxtyping import Float

from unified_jax.data.world.render import coverage, signed_distance, window
from unified_jax.data.world.scene import COLOUR_RGB, Object, Scene, trajectory

FOOT, PLATEAU, BEVEL = 0.4, 0.7, 0.3

_COLOUR = COLOUR_RGB.astype(np.float32) / np.float32(255)


def height(distance: np.ndarray) -> np.ndarray:
    """z of the module docstring for signed distances in radii; outside, the height of the outline."""
    return FOOT + (PLATEAU - FOOT) * np.clip(-distance / BEVEL, 0, 1)


def nearness(
    shape: int, x: float, y: float, radius: float, rows: tuple[int, int], columns: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """1 - depth of an object over a window of pixels; arguments as for `render.coverage`."""
    u = (np.arange(*columns, dtype=np.float32) + np.float32(0.5 - x)) / np.float32(radius)
    v = (np.arange(*rows, dtype=np.float32) + np.float32(0.5 - y)) / np.float32(radius)
    surface = height(signed_distance(shape, u[None, :], v[:, None])).astype(np.float32)
    return coverage(shape, x, y, radius, rows, columns) * surface


def render_depth(scene: Scene, resolution: int, frames: int = 1) -> Float[np.ndarray, "f r r 1"]:
    """Distance from the viewer, float32 in [0, 1], in each frame of the video."""
    depth = np.ones((frames, resolution, resolution, 1), np.float32)
    for object in scene.objects:
        radius = object.radius * resolution
        for image, (x, y) in zip(depth, trajectory(object, frames) * resolution, strict=True):
            rows, columns = window(x, y, radius, resolution)
            near = nearness(object.shape, x, y, radius, rows, columns)[..., None]
            image[rows[0] : rows[1], columns[0] : columns[1]] -= near
    return depth


def render_points(scene: Scene, count: int, rng: np.random.Generator) -> Float[np.ndarray, "k 6"]:
    """A point cloud of `count` points; two objects share it, the first gets the odd one."""
    first = -(-count // len(scene.objects))
    counts = (first, count - first)
    parts = [_on_surface(object, k, rng) for object, k in zip(scene.objects, counts, strict=False)]
    return np.concatenate(parts).astype(np.float32)


def _on_surface(object: Object, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points on one object, by rejection from its square; the shapes fill at least a fifth of it."""
    kept, have = [], 0
    while have < count:
        u, v = rng.uniform(-1, 1, (2, 5 * count + 64)).astype(np.float32)
        s = signed_distance(object.shape, u, v)
        inside = s < 0
        kept.append(np.stack([u[inside], v[inside], height(s[inside])], axis=1))
        have += int(inside.sum())
    u, v, z = np.concatenate(kept)[:count].T
    x, y = object.x + object.radius * u, 1 - (object.y + object.radius * v)
    colour = np.broadcast_to(_COLOUR[object.colour], (count, 3))
    return np.concatenate([np.stack([x, y, z], axis=1), colour], axis=1)
