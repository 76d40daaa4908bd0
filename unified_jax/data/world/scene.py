"""Scenes: objects with positions and motions. Every modality of the world is a rendering of a `Scene`.

The canvas is the unit square, x to the right and y downward, both in [0, 1]; lengths are fractions of the canvas.

*Places.* The centres of objects are in the inner square [0.0875, 0.9125]^2, divided into 3 x 3 cells of side 0.275 with
centres at 0.225, 0.5 and 0.775. Without jitter an object is at the centre of its cell. With jitter its centre is
uniform in a window of half-width `JITTER` about it (cut off near the walls, see below), which stays 0.0575 (nearly two
pixels at 32) away from the border to the next cell, so that an object's place never depends on a fraction of a pixel.

*Size.* An object of size s is inside the disc of radius RADII[s] about its centre. Every bound below (walls, overlap)
is a bound on these discs.

*Motion.* An object moves `SPEED` per frame along one axis and is reflected at the walls. Along that axis the centre is
in [r, 1 - r], of length L = 1 - 2 r, and with u(t) = (p_0 - r) + v t

    p(t) = r + T(u(t)),    T(u) = min(u mod 2L, 2L - u mod 2L)    (the triangle wave of period 2L).

It touches a wall whenever u(t) is a multiple of L. At the start every object is at least `SPEED` away from every wall,
so that its first step shows its true direction.

*Two objects* are in different cells and keep a distance of at least r_1 + r_2 + `GAP` in every one of the `FRAMES`
frames of the video; the image is frame 0. The object earlier in reading order of the cells is the first.

*Randomness.* A scene is a pure function of (seed, split, id): the three are packed, injectively, into the 128-bit key
of a Philox generator. Shape, colour, size and motion are sampled first; then places and jitter are sampled, with
rejection, given them. So every motion is equally likely, and so is every (shape, colour, size) that the split admits.
Places are equally likely for one object; two are slightly more often at opposite sides.

*Held out.* About a tenth of the 144 (shape, colour, size) combinations, chosen by CRC-32 of their names, never occurs
in the splits "train" and "test"; the split "held_out" holds no others. The salt was chosen so that the held-out
combinations are spread evenly over shapes, colours and sizes.
"""

import itertools
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8

SHAPES = ("circle", "square", "triangle", "diamond", "star", "ring")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
SIZES = ("small", "medium", "large")
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
MOTIONS = ("still", "left", "right", "up", "down")
ATTRIBUTES = (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES), ("place", PLACES), ("motion", MOTIONS))
SPLITS = ("train", "test", "held_out")

# Any two of these differ by at least 100 levels in Euclidean distance (0.8 on the [-1, 1] scale), and each differs from
# the background by at least 185.
COLOUR_RGB: UInt8[np.ndarray, "8 3"] = np.array(
    [
        (225, 30, 45),
        (250, 125, 20),
        (250, 225, 40),
        (60, 200, 85),
        (60, 215, 235),
        (45, 85, 235),
        (175, 60, 215),
        (245, 245, 245),
    ],
    np.uint8,
)
BACKGROUND_RGB: UInt8[np.ndarray, "3"] = np.array((24, 24, 26), np.uint8)
COLOUR_RGB.flags.writeable = BACKGROUND_RGB.flags.writeable = False

RADII = (0.105, 0.14, 0.185)
GRID = (0.225, 0.5, 0.775)
BORDERS = (0.3625, 0.6375)
JITTER = 0.08
SPEED = 0.04
GAP = 0.05
FRAMES = 16
VELOCITIES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))

_SALT = "world 66844: "
_TRIES_AT_ONCE = 8
_BATCHES_OF_TRIES = 16
_PAIRS = tuple(itertools.permutations(range(len(PLACES)), 2))


@dataclass(frozen=True)
class Object:
    """One object: attributes as indices into the tuples above, and its centre in frame 0 (canvas units)."""

    shape: int
    colour: int
    size: int
    place: int
    motion: int
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """One or two objects; two are sorted by place, which differs between them."""

    objects: tuple[Object, ...]


def held_out(shape: int, colour: int, size: int) -> bool:
    """Whether this combination is kept from the splits "train" and "test"."""
    name = f"{_SALT}{SIZES[size]} {COLOURS[colour]} {SHAPES[shape]}"
    return zlib.crc32(name.encode()) % 10 == 0


@lru_cache(maxsize=len(SPLITS))
def combinations(split: str) -> tuple[tuple[int, int, int], ...]:
    """The (shape, colour, size) triples that `split` admits, sorted. ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"The world has no split {split!r}; expected one of {', '.join(SPLITS)}.")
    triples = itertools.product(range(len(SHAPES)), range(len(COLOURS)), range(len(SIZES)))
    return tuple(triple for triple in triples if held_out(*triple) == (split == "held_out"))


def generator(seed: int, split: str, id: int, stream: int = 0) -> np.random.Generator:
    """The generator of example (seed, split, id).

    Stream 0 samples the scene, 1 the caption; each further rendering has its own stream (below 16), and so changes none
    of the others. `seed` is in [0, 2^32), `id` in [0, 2^63).
    """
    word = (seed << 8) | (SPLITS.index(split) << 4) | stream
    return np.random.Generator(np.random.Philox(key=np.array((word, id), np.uint64)))


def place_of(x: float, y: float) -> int:
    """The index in `PLACES` of the cell that holds the point (x, y); points outside belong to the nearest cell."""
    column = (x >= BORDERS[0]) + (x >= BORDERS[1])
    row = (y >= BORDERS[0]) + (y >= BORDERS[1])
    return int(3 * row + column)


def fold(start: np.ndarray, step: np.ndarray, radius: np.ndarray, frames: int) -> np.ndarray:
    """The triangle wave of the module docstring; the arrays broadcast, a last axis of `frames` is added.

    `start`, `step` (per frame) and `radius` are in canvas units.
    """
    length = 1 - 2 * radius[..., None]
    u = (start - radius)[..., None] + step[..., None] * np.arange(frames)
    u = np.mod(u, 2 * length)
    return radius[..., None] + np.minimum(u, 2 * length - u)


def trajectory(object: Object, frames: int = FRAMES) -> Float[np.ndarray, "frames 2"]:
    """The centre (x, y) in each frame, canvas units; row 0 is (object.x, object.y) up to rounding."""
    centre, radius = np.array((object.x, object.y)), np.full(2, object.radius)
    return fold(centre, SPEED * np.array(VELOCITIES[object.motion], float), radius, frames).T


def bounces(object: Object, frames: int = FRAMES) -> Float[np.ndarray, " k"]:
    """The increasing times, in fractional frames within (0, frames - 1], at which the object touches a wall."""
    dx, dy = VELOCITIES[object.motion]
    if dx == dy == 0:
        return np.zeros(0)
    length = 1 - 2 * object.radius
    start = (object.x if dx else object.y) - object.radius
    first = length - start if dx + dy > 0 else start
    times = (first + length * np.arange(1 + int(SPEED * frames / length))) / SPEED
    return times[(times > 0) & (times <= frames - 1)]


def apart(centres: Float[np.ndarray, "n 2 2"], radii: Float[np.ndarray, "2"], motions: tuple[int, int]) -> np.ndarray:
    """For n proposed pairs of centres (object, axis), whether they keep their distance in all frames: bool [n]."""
    steps = SPEED * np.array([VELOCITIES[motion] for motion in motions], float)
    paths = fold(centres, steps, np.repeat(radii, 2).reshape(2, 2), FRAMES)
    between = paths[:, 0] - paths[:, 1]
    square = (between * between).sum(1).min(-1)
    return square >= (radii[0] + radii[1] + GAP) ** 2


def centre_of(place: int, radius: float, u: float, v: float, jitter: bool) -> tuple[float, float]:
    """The centre in frame 0 from two uniform numbers."""
    row, column = divmod(place, 3)
    if not jitter:
        return GRID[column], GRID[row]
    wall = radius + SPEED
    return _within(GRID[column], wall, u), _within(GRID[row], wall, v)


def _within(middle: float, wall: float, u: float) -> float:
    low, high = max(middle - JITTER, wall), min(middle + JITTER, 1 - wall)
    return low + u * (high - low)


@lru_cache(maxsize=256)
def fallback_pair(sizes: tuple[int, int], motions: tuple[int, int]) -> tuple[int, int]:
    """The first pair of places, in order, whose cell centres serve two such objects. One exists for every argument."""
    radii = np.array([RADII[size] for size in sizes])
    centres = np.array([[(GRID[place % 3], GRID[place // 3]) for place in pair] for pair in _PAIRS])
    return _PAIRS[int(np.flatnonzero(apart(centres, radii, motions))[0])]


def _pair_centres(
    rng: np.random.Generator, sizes: tuple[int, int], motions: tuple[int, int], jitter: bool
) -> list[tuple[int, float, float]]:
    """(place, x, y) of two objects that never overlap: rejection sampling, and after 128 rejections the fallback."""
    radii = np.array([RADII[size] for size in sizes])
    for _ in range(_BATCHES_OF_TRIES):
        draws = rng.random((_TRIES_AT_ONCE, 5)).tolist()
        pairs = [_PAIRS[int(draw[0] * len(_PAIRS))] for draw in draws]
        centres = [
            [centre_of(pair[i], RADII[sizes[i]], draw[1 + 2 * i], draw[2 + 2 * i], jitter) for i in (0, 1)]
            for pair, draw in zip(pairs, draws, strict=True)
        ]
        accepted = apart(np.array(centres), radii, motions)
        if accepted.any():
            n = int(accepted.argmax())
            return [(place, *centre) for place, centre in zip(pairs[n], centres[n], strict=True)]
    pair = fallback_pair(sizes, motions)
    return [(place, GRID[place % 3], GRID[place // 3]) for place in pair]


def sample_scene(seed: int, split: str, id: int, max_objects: int = 2, jitter: bool = True) -> Scene:
    """The scene of example (seed, split, id).

    `max_objects` is 1, or 2 (then one and two objects are equally likely); `jitter=False` puts every object on the
    centre of its cell. ValueError for an unknown split.
    """
    allowed = combinations(split)
    rng = generator(seed, split, id)
    draws = rng.random(8).tolist()
    count = 2 if max_objects == 2 and draws[0] < 0.5 else 1
    kinds = [allowed[int(u * len(allowed))] for u in draws[1 : 1 + count]]
    motions = [int(u * len(MOTIONS)) for u in draws[3 : 3 + count]]
    if count == 1:
        place = int(draws[5] * len(PLACES))
        spots = [(place, *centre_of(place, RADII[kinds[0][2]], draws[6], draws[7], jitter))]
    else:
        spots = _pair_centres(rng, (kinds[0][2], kinds[1][2]), (motions[0], motions[1]), jitter)
    objects = [
        Object(shape, colour, size, place, motion, x, y, RADII[size])
        for (shape, colour, size), motion, (place, x, y) in zip(kinds, motions, spots, strict=True)
    ]
    return Scene(tuple(sorted(objects, key=lambda object: object.place)))
