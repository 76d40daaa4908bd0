"""Reading pictures: which objects an array shows, from the array alone.

Analysis by synthesis. Let d be the picture minus the background (on the [-1, 1] scale) and T the coverage of one of the
18 (shape, size) templates at some position, painted in a colour whose difference from the background is v. Painting it
lowers the squared error from |d|^2 to |d - T v|^2, that is, it explains

    S(T, v) = 2 <T, d . v> - |T|^2 |v|^2                                                                           (1)

of the energy of the picture: |T|^2 |v|^2 when the template is exactly right. The reader looks for the hypothesis with
the greatest S; pixels that the template does not cover play no part, so a second object elsewhere does not disturb it.

    1. Coarse: (1) for every template at every pixel, in every colour, on the picture averaged down to 16 pixels (up
       to 31, as whole pixels are averaged). This finds where, not what.
    2. Fine: (1) about the coarse optimum, for every template at steps of a quarter pixel, in every colour, at full
       resolution. This also finds what, and the centre to about an eighth of a pixel.
    3. The object is subtracted and 1 and 2 are repeated for a second one; the first is then fitted once more without
       it, and the picture is searched for a third.

Pictures of 128 pixels and more are first averaged down, to 64 or a little more where that divides.

The *fit* of an object is S / (|T|^2 |v|^2): 1 for a perfect picture, 2a - 1 for one whose contrast is a, and at most 0
when painting nothing would have been as good. Objects with a fit above `LEAST_FIT` are reported.

Nothing is random. Any values are read without error; those that are infinite or undefined are taken as background.
"""

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, Num

from unified_jax.data.world.render import MIN_RESOLUTION, coverage
from unified_jax.data.world.scene import BACKGROUND_RGB, BORDERS, COLOUR_RGB, COLOURS, PLACES, RADII, SHAPES, SIZES

LEAST_FIT = 0.25
COARSE = 16
ENOUGH = 64
ABSENT_CENTRE = -1.0

_PHASES = 4
_CHUNK = 8
_BACKGROUND = BACKGROUND_RGB.astype(np.float32) / 127.5 - 1
_CONTRAST = (COLOUR_RGB.astype(np.float32) / 127.5 - 1) - _BACKGROUND
_ENERGY = (_CONTRAST * _CONTRAST).sum(1)


@dataclass(frozen=True)
class Reading:
    """What was read, for a batch.

    Objects are sorted by place, then colour, shape and size; scores match them as sets. Where there is no object, its
    attributes are the number of values of the attribute, its centre is (-1, -1) and its fit 0.
    """

    count: Int[np.ndarray, " b"]  # 0 to 3; 3 means more than two, of which two are reported
    shape: Int[np.ndarray, "b 2"]  # index in SHAPES, or 6
    colour: Int[np.ndarray, "b 2"]  # index in COLOURS, or 8
    size: Int[np.ndarray, "b 2"]  # index in SIZES, or 3
    place: Int[np.ndarray, "b 2"]  # index in PLACES, or 9
    centre: Float[np.ndarray, "b 2 2"]  # (x, y) in canvas units
    fit: Float[np.ndarray, "b 2"]  # the object's fit, clipped to [0, 1]
    residual: Float[np.ndarray, " b"]  # root mean square, on the [-1, 1] scale, of what the objects leave unexplained


@dataclass(frozen=True)
class _Bank:
    """Templates on windows of (2 half + 1)^2 pixels about a pixel; `offset` is the centre less that pixel's corner."""

    half: int
    templates: np.ndarray  # [w * w, k]
    energy: np.ndarray  # [k]
    shape: np.ndarray  # [k]
    size: np.ndarray  # [k]
    offset: np.ndarray  # [k, 2] as (x, y), pixels


@dataclass
class _Fits:
    """The best hypothesis for each of n pictures: window corner (row, column), template, colour, share explained."""

    corner: np.ndarray  # [n, 2]
    template: np.ndarray  # [n]
    colour: np.ndarray  # [n]
    fit: np.ndarray  # [n]


@lru_cache(maxsize=8)
def _bank(resolution: int, phases: int) -> _Bank:
    half = int(np.ceil(RADII[-1] * resolution + 0.5))
    width = 2 * half + 1
    offsets = (np.arange(phases) + 0.5) / phases
    rows = list(itertools.product(range(len(SHAPES)), range(len(SIZES)), offsets, offsets))
    span = (0, width)
    templates = np.stack(
        [coverage(s, half + x, half + y, RADII[z] * resolution, span, span).ravel() for s, z, x, y in rows], axis=1
    )
    return _Bank(
        half=half,
        templates=np.ascontiguousarray(templates, np.float32),
        energy=(templates * templates).sum(0).astype(np.float32),
        shape=np.array([row[0] for row in rows]),
        size=np.array([row[1] for row in rows]),
        offset=np.array([row[2:] for row in rows]),
    )


def _windows(padded: np.ndarray, width: int) -> np.ndarray:
    """All windows, [n, rows, columns, 3, width, width], as a view."""
    return np.lib.stride_tricks.sliding_window_view(padded, (width, width), axis=(1, 2))


def _best(windows: np.ndarray, bank: _Bank) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Over windows [n, rows, columns, 3, w, w]: the window, template and colour of the greatest S, and the fit."""
    n, positions = windows.shape[0], windows.shape[1] * windows.shape[2]
    by_channel = np.ascontiguousarray(np.moveaxis(windows, 3, 0)).reshape(-1, bank.templates.shape[0])
    inner = (by_channel @ bank.templates).reshape(3, -1)
    explained = (2 * _CONTRAST) @ inner
    explained = explained.reshape(len(COLOURS), n, positions, -1)
    explained -= (_ENERGY[:, None] * bank.energy)[:, None, None, :]
    by_picture = explained.transpose(1, 0, 2, 3)
    flat = np.stack([picture.argmax() for picture in by_picture.reshape(n, len(COLOURS), -1)])
    colour, position, template = np.unravel_index(flat, by_picture.shape[1:])
    share = by_picture[np.arange(n), colour, position, template] / (_ENERGY[colour] * bank.energy[template])
    return position, template, colour, share


def _average(signal: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of `factor` pixels; rows and columns left over at the end are dropped."""
    small = signal.shape[1] // factor
    kept = signal[:, : small * factor, : small * factor]
    return kept.reshape(-1, small, factor, small, factor, 3).mean((2, 4))


def _pad(signal: np.ndarray, half: int) -> np.ndarray:
    return np.pad(signal, ((0, 0), (half, half), (half, half), (0, 0)))


def _coarse(signal: np.ndarray, factor: int) -> np.ndarray:
    """The pixel (row, column), at full resolution, nearest the centre of the best hypothesis: int [n, 2]."""
    mean = _average(signal, factor)
    small = mean.shape[1]
    bank = _bank(small, 1)
    position, _, _, _ = _best(_windows(_pad(mean, bank.half), 2 * bank.half + 1), bank)
    return np.stack(np.divmod(position, small), 1) * factor + factor // 2


def _fine(padded: np.ndarray, pixels: np.ndarray, bank: _Bank, reach: int) -> _Fits:
    """The best hypothesis with its centre within `reach` pixels of the given ones."""
    resolution = padded.shape[1] - 2 * bank.half
    # A window is named by its corner in the padded picture, which is its middle pixel in the picture.
    low = np.clip(pixels - reach, 0, resolution - (2 * reach + 1))
    side = 2 * reach + 1
    everywhere = _windows(padded, 2 * bank.half + 1)
    near = np.stack([everywhere[k, i : i + side, j : j + side] for k, (i, j) in enumerate(low)])
    position, template, colour, share = _best(near, bank)
    return _Fits(low + np.stack(np.divmod(position, side), 1), template, colour, share)


def _paint(padded: np.ndarray, fits: _Fits, bank: _Bank, sign: int, chosen: np.ndarray) -> None:
    """Adds (sign = 1) or subtracts (-1) the hypotheses of the chosen pictures, in place."""
    width = 2 * bank.half + 1
    for k in np.flatnonzero(chosen):
        i, j = fits.corner[k]
        cover = bank.templates[:, fits.template[k]].reshape(width, width, 1)
        padded[k, i : i + width, j : j + width] += sign * cover * _CONTRAST[fits.colour[k]]


def _search(padded: np.ndarray, bank: _Bank) -> _Fits:
    """Steps 1 and 2 of the module docstring."""
    resolution = padded.shape[1] - 2 * bank.half
    factor = resolution // COARSE
    inside = slice(bank.half, bank.half + resolution)
    # A coarse optimum is off by up to half a coarse pixel.
    return _fine(padded, _coarse(padded[:, inside, inside], factor), bank, factor // 2 + 1)


def _read_chunk(signal: np.ndarray, bank: _Bank) -> tuple[_Fits, _Fits, np.ndarray, np.ndarray]:
    """First and second hypotheses, the count, and the residual, of pictures less background [n, r, r, 3]."""
    padded = _pad(signal, bank.half)
    first = _search(padded, bank)
    one = first.fit > LEAST_FIT
    _paint(padded, first, bank, -1, one)
    second = _search(padded, bank)
    two = one & (second.fit > LEAST_FIT)
    three = np.zeros_like(two)
    if two.any():
        _paint(padded, second, bank, -1, two)
        _paint(padded, first, bank, 1, one)
        first = _fine(padded, first.corner, bank, 1)
        _paint(padded, first, bank, -1, one)
        three[two] = _search(padded[two], bank).fit > LEAST_FIT
    inside = slice(bank.half, bank.half + signal.shape[1])
    residual = np.sqrt(np.square(padded[:, inside, inside]).mean((1, 2, 3)))
    return first, second, one.astype(int) + two + three, residual


def _signal(images: np.ndarray) -> np.ndarray:
    """Pictures less background on the [-1, 1] scale, finite: float32 [b, r, r, 3]. ValueError for other shapes."""
    if images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise ValueError(f"Pictures to be read must have the shape [b, r, r, 3]; found {list(images.shape)}.")
    if images.shape[1] < MIN_RESOLUTION:
        raise ValueError(f"Pictures to be read must have at least {MIN_RESOLUTION} rows; found {images.shape[1]}.")
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(127.5) - 1 - _BACKGROUND
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"Pictures to be read must be uint8 or float in [-1, 1]; found {images.dtype}.")
    # Far beyond [-1, 1] values carry nothing; the bound keeps squares finite.
    values = np.where(np.isfinite(images), np.clip(images, -3, 3), _BACKGROUND)
    return values.astype(np.float32) - _BACKGROUND


def read_image(images: Num[np.ndarray, "..."]) -> Reading:
    """Reads a batch of pictures [b, r, r, 3]: uint8, or float on the [-1, 1] scale, with r of 16 or more.

    ValueError for another shape or dtype.
    """
    signal = _signal(images)
    factors = range(1, max(signal.shape[1] // ENOUGH, 1) + 1)
    signal = _average(signal, max(f for f in factors if signal.shape[1] % f == 0))
    b, resolution = signal.shape[:2]
    bank = _bank(resolution, _PHASES)
    count, residual = np.zeros(b, np.int32), np.zeros(b, np.float32)
    attributes = np.tile(np.array([len(PLACES), len(COLOURS), len(SHAPES), len(SIZES)], np.int32), (b, 2, 1))
    centre, fit = np.full((b, 2, 2), ABSENT_CENTRE, np.float32), np.zeros((b, 2), np.float32)
    for start in range(0, b, _CHUNK):
        chunk = slice(start, min(start + _CHUNK, b))
        first, second, count[chunk], residual[chunk] = _read_chunk(signal[chunk], bank)
        for slot, fits in enumerate((first, second)):
            present = np.flatnonzero(count[chunk] > slot)
            spot = (fits.corner[present, ::-1] + bank.offset[fits.template[present]]) / resolution
            template = fits.template[present]
            cell = (spot[:, :, None] >= np.array(BORDERS)).sum(2)
            columns = (cell[:, 0] + 3 * cell[:, 1], fits.colour[present], bank.shape[template], bank.size[template])
            attributes[start + present, slot] = np.stack(columns, 1)
            centre[start + present, slot] = spot
            fit[start + present, slot] = np.clip(fits.fit[present], 0, 1)
    # Lexicographic; an absent object has the largest place of all and so comes last.
    order = np.lexsort(attributes.transpose(2, 0, 1)[::-1], axis=1)
    attributes = np.take_along_axis(attributes, order[..., None], 1)
    return Reading(
        count=count,
        place=attributes[..., 0],
        colour=attributes[..., 1],
        shape=attributes[..., 2],
        size=attributes[..., 3],
        centre=np.take_along_axis(centre, order[..., None], 1),
        fit=np.take_along_axis(fit, order, 1),
        residual=residual,
    )
