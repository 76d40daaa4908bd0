"""Images and videos of scenes: anti-aliased by signed distance, at any resolution.

Every shape is given by a function s(u, v), in units of the object's radius, with the origin at its centre, negative
inside, and of gradient length 1 near its outline, so that s is the signed distance there:

    circle     |p| - a                                      a = 0.88
    square     max(|u|, |v|) - a                            a = 0.70
    triangle   max(v - 1/2, (sqrt(3) |u| - v) / 2 - 1/2)     equilateral, pointing up
    diamond    (|u| / a + |v| - 1) / |(1 / a, 1)|           a = 0.66
    star       n . (q - (0, 1))                             q is p folded into the tenth with corners 0, the tip
                                                            (0, 1) and the notch a (sin 36, cos 36); n is the
                                                            normal of tip-notch; one tip up; a = 0.50
    ring       | |p| - (a + b) / 2 | - (a - b) / 2          a = 0.95, b = 0.50

All are inside the unit disc.

The coverage of a pixel is the mean over its four quarters of clip(1/2 - s / h, 0, 1), with h the side of a quarter.
A pixel is then background + coverage (colour - background), rounded.
"""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8

from unified_jax.data.world.scene import BACKGROUND_RGB, COLOUR_RGB, SHAPES, Object, Scene, trajectory

MIN_RESOLUTION = 16

_COLOUR = COLOUR_RGB.astype(np.float32)
_ROOT3 = math.sqrt(3)
_DIAMOND = 0.66
_NOTCH = 0.50
_SIN36, _COS36 = math.sin(math.radians(36)), math.cos(math.radians(36))


def signed_distance(shape: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """s(u, v) of the module docstring for arrays that broadcast (units of the radius; v points down)."""
    match SHAPES[shape]:
        case "circle":
            return np.sqrt(u * u + v * v) - 0.88
        case "square":
            return np.maximum(abs(u), abs(v)) - 0.70
        case "triangle":
            return np.maximum(v - 0.5, _ROOT3 / 2 * abs(u) - (0.5 * v + 0.5))
        case "diamond":
            scale = 1 / math.hypot(1 / _DIAMOND, 1)
            return abs(u) * (scale / _DIAMOND) + (abs(v) - 1) * scale
        case "star":
            return _star(u, v)
        case _:
            return abs(np.sqrt(u * u + v * v) - 0.725) - 0.225


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Two reflections and two absolute values bring every tenth of the star onto one, with its tip at (0, 1)."""
    x, y = abs(u), -v
    beyond = 2 * np.maximum(_COS36 * x - _SIN36 * y, 0)
    x, y = x - _COS36 * beyond, y + _SIN36 * beyond
    beyond = 2 * np.maximum(-_COS36 * x - _SIN36 * y, 0)
    x, y = abs(x + _COS36 * beyond), y + _SIN36 * beyond
    edge_x, edge_y = _NOTCH * _SIN36, _NOTCH * _COS36 - 1
    length = math.hypot(edge_x, edge_y)
    return (y - 1) * (edge_x / length) - x * (edge_y / length)


def coverage(
    shape: int, x: float, y: float, radius: float, rows: tuple[int, int], columns: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """The share of each pixel that an object covers, in [0, 1].

    `x`, `y` and `radius` are in pixels; pixel (i, j) is the square [j, j + 1] x [i, i + 1]; `rows` and `columns` are
    half-open ranges of pixels.
    """
    inverse = 1 / radius
    u = (_quarters(columns[1] - columns[0]) + (columns[0] - x)) * np.float32(inverse)
    v = (_quarters(rows[1] - rows[0]) + (rows[0] - y)) * np.float32(inverse)
    fine = signed_distance(shape, u[None, :], v[:, None])
    fine *= np.float32(-2 * radius)
    fine += np.float32(0.5)
    np.maximum(fine, 0, out=fine)
    np.minimum(fine, 1, out=fine)
    pairs = fine[0::2] + fine[1::2]
    return (pairs[:, 0::2] + pairs[:, 1::2]) * np.float32(0.25)


@lru_cache(maxsize=1024)
def _quarters(pixels: int) -> np.ndarray:
    """The centres of the half-pixels of pixels from 0 on (read-only, as it is shared)."""
    centres = (np.arange(2 * pixels, dtype=np.float32) + np.float32(0.5)) / 2
    centres.flags.writeable = False
    return centres


def _span(centre: float, radius: float, resolution: int) -> tuple[int, int]:
    """The pixels, within the canvas, that a disc can touch."""
    return max(int(centre - radius), 0), min(int(centre + radius) + 1, resolution)


def window(x: float, y: float, radius: float, resolution: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(rows, columns), half-open ranges of pixels that an object can touch: its disc and half a pixel more."""
    return _span(y, radius + 0.5, resolution), _span(x, radius + 0.5, resolution)


def _paint(image: np.ndarray, object: Object, x: float, y: float) -> None:
    """Paints the object with its centre at (x, y), canvas units."""
    resolution = len(image)
    x, y, radius = x * resolution, y * resolution, object.radius * resolution
    rows, columns = window(x, y, radius, resolution)
    cover = coverage(object.shape, x, y, radius, rows, columns)[..., None]
    # Blend with the canvas, not the plain background: a window's corner may hold a part of the other object.
    part = image[rows[0] : rows[1], columns[0] : columns[1]]
    part[:] = part + cover * (_COLOUR[object.colour] - part) + np.float32(0.5)


def render_image(scene: Scene, resolution: int) -> UInt8[np.ndarray, "r r 3"]:
    """The video's first frame. ValueError for a resolution below 16."""
    return render_video(scene, resolution, 1)[0]


def render_mask(scene: Scene, resolution: int) -> UInt8[np.ndarray, "r r 1"]:
    """Where the objects of the image are, whatever their colours: the share of each pixel that they cover."""
    share = np.zeros((resolution, resolution), np.float32)
    for object in scene.objects:
        x, y, radius = object.x * resolution, object.y * resolution, object.radius * resolution
        rows, columns = window(x, y, radius, resolution)
        part = share[rows[0] : rows[1], columns[0] : columns[1]]
        np.maximum(part, coverage(object.shape, x, y, radius, rows, columns), out=part)
    return np.round(share * 255).astype(np.uint8)[..., None]


def render_video(scene: Scene, resolution: int, frames: int) -> UInt8[np.ndarray, "f r r 3"]:
    """The video: objects move and are reflected at the walls. ValueError for a resolution below 16."""
    if resolution < MIN_RESOLUTION:
        raise ValueError(f"The resolution of an image must be at least {MIN_RESOLUTION}; found {resolution}.")
    film = np.empty((frames, resolution, resolution, 3), np.uint8)
    film[:] = BACKGROUND_RGB
    for object in scene.objects:
        # The first frame uses the object's own centre, which `trajectory` gives only up to rounding.
        later = trajectory(object, frames)[1:].tolist() if frames > 1 else []
        for image, (x, y) in zip(film, [(object.x, object.y), *later], strict=True):
            _paint(image, object, x, y)
    return film
