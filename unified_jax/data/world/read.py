"""Reading images and videos: the objects that an array shows, by matching pursuit (`match`).

A video is read frame by frame. Each object of the first frame gets the motion whose path (`scene.trajectory`) passes
closest to the objects of the other frames, and the shape, colour and size by a vote of the frames along that path.

Images of 128 pixels and more are first averaged down, to about 64 rows. Reading is deterministic
and accepts any values; infinite and undefined ones count as background.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num

from unified_jax.data.world.match import Found, Kind, average, search
from unified_jax.data.world.render import MIN_RESOLUTION, coverage
from unified_jax.data.world.scene import (
    ATTRIBUTES,
    BACKGROUND_RGB,
    BORDERS,
    COLOUR_RGB,
    COLOURS,
    RADII,
    SHAPES,
    SIZES,
    SPEED,
    VELOCITIES,
    fold,
)

ENOUGH = 64
ABSENT_CENTRE = -1.0
LOST = 0.15
"""Largest distance from its path, in canvas units, of a tracked object."""

_BACKGROUND = BACKGROUND_RGB.astype(np.float32) / 127.5 - 1
_PICTURE = Kind(coverage, tuple(map(tuple, ((COLOUR_RGB.astype(np.float32) / 127.5 - 1) - _BACKGROUND).tolist())))


@dataclass(frozen=True)
class Reading:
    """The attributes read from a batch of any modality.

    Objects are sorted by place, then colour, shape and size (of audio by time); scores match them as sets. For an
    absent object, or an attribute that the modality does not show, it is the number of values of the attribute; then
    the centre is (-1, -1), and the fit of an absent object is 0.
    """

    count: Int[np.ndarray, " b"]
    """0 to 3; 3 means more than two, of which two are reported."""
    shape: Int[np.ndarray, "b 2"]
    """Index in SHAPES, or 6."""
    colour: Int[np.ndarray, "b 2"]
    """Index in COLOURS, or 8."""
    size: Int[np.ndarray, "b 2"]
    """Index in SIZES, or 3."""
    place: Int[np.ndarray, "b 2"]
    """Index in PLACES, or 9."""
    motion: Int[np.ndarray, "b 2"]
    """Index in MOTIONS, or 5."""
    centre: Float[np.ndarray, "b 2 2"]
    """(x, y) in canvas units, in the first frame."""
    fit: Float[np.ndarray, "b 2"]
    """How well the object explains what is there, 0 to 1."""
    residual: Float[np.ndarray, " b"]
    """Root mean square, on the [-1, 1] scale, of what the objects leave unexplained."""


def make_reading(
    count: np.ndarray,
    centre: np.ndarray,
    fit: np.ndarray,
    residual: np.ndarray,
    *,
    shape: np.ndarray | None = None,
    colour: np.ndarray | None = None,
    size: np.ndarray | None = None,
    place: np.ndarray | None = None,
    motion: np.ndarray | None = None,
) -> Reading:
    """A reading; attributes that are None are not shown, those of absent objects are removed."""
    there = np.arange(2) < count[:, None]
    given = {"shape": shape, "colour": colour, "size": size, "place": place, "motion": motion}
    values = {}
    for name, choices in ATTRIBUTES:
        value = given[name]
        found = len(choices) if value is None else np.where(there, value, len(choices))
        values[name] = np.broadcast_to(found, there.shape).astype(np.int32)
    centre = np.where(there[..., None], centre, ABSENT_CENTRE).astype(np.float32)
    count, fit = count.astype(np.int32), np.where(there, fit, 0).astype(np.float32)
    return Reading(count, **values, centre=centre, fit=fit, residual=residual.astype(np.float32))


def _signal(images: np.ndarray) -> np.ndarray:
    """Images less background on the [-1, 1] scale, finite: float32 [b, r, r, 3]. ValueError for other shapes."""
    if images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise ValueError(f"Images to be read must have the shape [b, r, r, 3]; found {list(images.shape)}.")
    if images.shape[1] < MIN_RESOLUTION:
        raise ValueError(f"Images to be read must have at least {MIN_RESOLUTION} rows; found {images.shape[1]}.")
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(127.5) - 1 - _BACKGROUND
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"Images to be read must be uint8 or float in [-1, 1]; found {images.dtype}.")
    # Values far beyond [-1, 1] have no meaning; the bound keeps squares finite.
    values = np.where(np.isfinite(images), np.clip(images, -3, 3), _BACKGROUND)
    return values.astype(np.float32) - _BACKGROUND


def shrink(signal: Float[np.ndarray, "b r r c"]) -> Float[np.ndarray, "b s s c"]:
    """Large images averaged down to the resolution of the search."""
    factors = range(1, max(signal.shape[1] // ENOUGH, 1) + 1)
    return average(signal, max(f for f in factors if signal.shape[1] % f == 0))


def read_image(images: Num[np.ndarray, "..."]) -> Reading:
    """Reads a batch of images [b, r, r, 3]: uint8, or float on the [-1, 1] scale, with r of 16 or more.

    ValueError for another shape or dtype.
    """
    return sort_found(search(_PICTURE, shrink(_signal(images))))


def read_video(videos: Num[np.ndarray, "..."]) -> Reading:
    """Reads a batch of videos [b, f, r, r, 3] as `read_image` reads images; motion needs two frames or more."""
    if videos.ndim != 5:
        raise ValueError(f"Videos to be read must have the shape [b, f, r, r, 3]; found {list(videos.shape)}.")
    b, f = videos.shape[:2]
    found = search(_PICTURE, shrink(_signal(videos.reshape((b * f,) + videos.shape[2:]))))
    return follow(found, f)


def place_at(centre: Float[np.ndarray, "... 2"]) -> Int[np.ndarray, "..."]:
    """The place of a point (x, y)."""
    cell = (centre[..., None] >= np.array(BORDERS)).sum(-1)
    return cell[..., 0] + 3 * cell[..., 1]


def sort_found(found: Found, motion: np.ndarray | None = None, colours: bool = True) -> Reading:
    """The hypotheses as a reading, with sorted objects."""
    colour = found.colour if colours else None
    place = place_at(found.centre)
    there = np.arange(2) < found.count[:, None]
    order = np.lexsort(np.stack([found.size, found.shape, found.colour, place, ~there]), axis=1)

    def sort(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.take_along_axis(values, order, 1)

    centre = np.take_along_axis(found.centre, order[..., None], 1)
    return make_reading(
        found.count, centre, np.take_along_axis(found.fit, order, 1), found.residual,
        shape=sort(found.shape), colour=sort(colour), size=sort(found.size), place=sort(place), motion=sort(motion),
    )  # fmt: skip


def follow(found: Found, frames: int, colours: bool = True) -> Reading:
    """The reading of videos from the hypotheses of all frames, [b f] in sequence."""

    def films(values: np.ndarray) -> np.ndarray:
        return values.reshape((-1, frames) + values.shape[1:])

    start = films(found.centre)[:, 0]
    radius = np.asarray(RADII)[films(found.size)[:, 0]]
    steps = SPEED * np.asarray(VELOCITIES, float)
    # [b, object, motion, axis, frame]
    paths = fold(start[:, :, None], steps, radius[:, :, None, None], frames)
    centre = np.where((np.arange(2) < found.count[:, None])[..., None], found.centre, 9.0)
    seen = np.moveaxis(films(centre), 1, -1)[:, None, None]  # [b, 1, 1, candidate, axis, frame]
    distance = np.sqrt(np.square(paths[:, :, :, None] - seen).sum(-2))
    nearest, which = distance.min(3), distance.argmin(3)  # [b, object, motion, frame]
    motion = np.minimum(nearest, LOST).sum(-1).argmin(-1)
    own = np.take_along_axis(which, motion[..., None, None], 2)[:, :, 0]  # [b, object, frame]
    close = np.take_along_axis(nearest, motion[..., None, None], 2)[:, :, 0] < LOST

    def vote(values: np.ndarray, choices: int) -> np.ndarray:
        mine = np.take_along_axis(np.swapaxes(films(values), 1, 2), own, 1)
        weight = np.take_along_axis(np.swapaxes(films(found.fit), 1, 2), own, 1) * close
        return ((mine[..., None] == np.arange(choices)) * weight[..., None]).sum(2).argmax(-1).astype(np.int32)

    whole = Found(
        count=films(found.count)[:, 0],
        shape=vote(found.shape, len(SHAPES)),
        size=vote(found.size, len(SIZES)),
        colour=vote(found.colour, len(COLOURS)),
        centre=start,
        fit=films(found.fit).mean(1),
        residual=np.sqrt(np.square(films(found.residual)).mean(1)),
    )
    return sort_found(whole, motion.astype(np.int32) if frames > 1 else None, colours)
