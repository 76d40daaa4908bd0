"""Matching pursuit: which painted shapes explain an image, for `read_image` and `read_depth`.

Let d be an image less its background and T one of the templates (every shape in every size at some position), painted
in a colour whose difference from the background is v. Painting it lowers the squared error from |d|^2 to |d - T v|^2,
so it explains

    S(T, v) = 2 <T, d . v> - |T|^2 |v|^2                                                                           (1)

of the energy of the image: |T|^2 |v|^2 when the template is exactly right. The search is for the hypothesis of
largest S. Pixels outside the template have no effect, so a second object elsewhere does not disturb it.

    1. Coarse: (1) for every template at every pixel, in every colour, on the image averaged down to 16 pixels (up
       to 31, as pixels are averaged in blocks). This finds the position only.
    2. Fine: (1) about the coarse optimum, for every template at steps of a quarter pixel, in every colour, at full
       resolution. This finds shape, size and colour, and the centre to about an eighth of a pixel.
    3. The object is subtracted and 1 and 2 are repeated for a second one; the first is then fitted again without it,
       and the image is searched for a third.

The *fit* of an object is S / (|T|^2 |v|^2): 1 for a perfect image, 2a - 1 for one whose contrast is a, and at most 0
when painting nothing would have been as good. Objects with a fit above `LEAST_FIT` are reported.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from unified_jax.data.world.scene import RADII, SHAPES, SIZES

LEAST_FIT = 0.25
COARSE = 16

_PHASES = 4
_CHUNK = 8


@dataclass(frozen=True)
class Kind:
    """The painting: coverage of pixels by a shape, and the colours' differences from the background."""

    cover: Callable[[int, float, float, float, tuple[int, int], tuple[int, int]], np.ndarray]
    """Coverage of the pixels by a shape; see `render.coverage`."""
    colours: tuple[tuple[float, ...], ...]
    """One row per colour, one number per channel."""

    @property
    def contrast(self) -> Float[np.ndarray, "k c"]:
        """The colours as an array."""
        return np.asarray(self.colours, np.float32)


@dataclass(frozen=True)
class Found:
    """Two hypotheses per image, in the order of the search, and the number of objects (0 to 3)."""

    count: Int[np.ndarray, " b"]
    """0 to 3."""
    shape: Int[np.ndarray, "b 2"]
    size: Int[np.ndarray, "b 2"]
    colour: Int[np.ndarray, "b 2"]
    centre: Float[np.ndarray, "b 2 2"]
    """(x, y), canvas units."""
    fit: Float[np.ndarray, "b 2"]
    residual: Float[np.ndarray, " b"]
    """Root mean square of what the hypotheses leave unexplained."""


@dataclass(frozen=True)
class _Bank:
    """Templates on windows of (2 half + 1)^2 pixels about a pixel; `offset` is the centre less that pixel's corner."""

    half: int
    templates: np.ndarray  # [w * w, k]
    energy: np.ndarray  # [k]
    shape: np.ndarray  # [k]
    size: np.ndarray  # [k]
    offset: np.ndarray  # [k, 2] as (x, y), pixels
    contrast: np.ndarray  # [colours, channels]

    @property
    def strength(self) -> np.ndarray:
        """|v|^2 of each colour."""
        return np.square(self.contrast).sum(1)


@dataclass
class _Fits:
    """The best hypothesis for each of n images: window corner (row, column), template, colour, share explained."""

    corner: np.ndarray  # [n, 2]
    template: np.ndarray  # [n]
    colour: np.ndarray  # [n]
    fit: np.ndarray  # [n]


@lru_cache(maxsize=8)
def _bank(kind: Kind, resolution: int, phases: int) -> _Bank:
    half = int(np.ceil(RADII[-1] * resolution + 0.5))
    width = 2 * half + 1
    offsets = (np.arange(phases) + 0.5) / phases
    rows = list(itertools.product(range(len(SHAPES)), range(len(SIZES)), offsets, offsets))
    span = (0, width)
    templates = np.stack(
        [kind.cover(s, half + x, half + y, RADII[z] * resolution, span, span).ravel() for s, z, x, y in rows], axis=1
    )
    return _Bank(
        half=half,
        templates=np.ascontiguousarray(templates, np.float32),
        energy=(templates * templates).sum(0).astype(np.float32),
        shape=np.array([row[0] for row in rows]),
        size=np.array([row[1] for row in rows]),
        offset=np.array([row[2:] for row in rows]),
        contrast=kind.contrast,
    )


def _windows(padded: np.ndarray, width: int) -> np.ndarray:
    """All windows, [n, rows, columns, c, width, width], as a view."""
    return np.lib.stride_tricks.sliding_window_view(padded, (width, width), axis=(1, 2))


def _best(windows: np.ndarray, bank: _Bank) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Over windows [n, rows, columns, c, w, w]: the window, template and colour of the greatest S, and the fit."""
    n, positions = windows.shape[0], windows.shape[1] * windows.shape[2]
    by_channel = np.ascontiguousarray(np.moveaxis(windows, 3, 0)).reshape(-1, bank.templates.shape[0])
    inner = (by_channel @ bank.templates).reshape(len(by_channel) // (n * positions), -1)
    explained = (2 * bank.contrast) @ inner
    colours = len(bank.contrast)
    explained = explained.reshape(colours, n, positions, -1)
    explained -= (bank.strength[:, None] * bank.energy)[:, None, None, :]
    by_picture = explained.transpose(1, 0, 2, 3)
    flat = np.stack([picture.argmax() for picture in by_picture.reshape(n, colours, -1)])
    colour, position, template = np.unravel_index(flat, by_picture.shape[1:])
    share = by_picture[np.arange(n), colour, position, template] / (bank.strength[colour] * bank.energy[template])
    return position, template, colour, share


def average(signal: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of `factor` pixels; rows and columns left over at the end are dropped."""
    small = signal.shape[1] // factor
    kept = signal[:, : small * factor, : small * factor]
    return kept.reshape(-1, small, factor, small, factor, signal.shape[-1]).mean((2, 4))


def _pad(signal: np.ndarray, half: int) -> np.ndarray:
    return np.pad(signal, ((0, 0), (half, half), (half, half), (0, 0)))


def _coarse(kind: Kind, signal: np.ndarray, factor: int) -> np.ndarray:
    """The pixel (row, column), at full resolution, nearest the centre of the best hypothesis: int [n, 2]."""
    mean = average(signal, factor)
    small = mean.shape[1]
    bank = _bank(kind, small, 1)
    position, _, _, _ = _best(_windows(_pad(mean, bank.half), 2 * bank.half + 1), bank)
    return np.stack(np.divmod(position, small), 1) * factor + factor // 2


def _fine(padded: np.ndarray, pixels: np.ndarray, bank: _Bank, reach: int) -> _Fits:
    """The best hypothesis with its centre within `reach` pixels of the given ones."""
    resolution = padded.shape[1] - 2 * bank.half
    # A window is named by its corner in the padded image, which is its middle pixel in the image.
    low = np.clip(pixels - reach, 0, resolution - (2 * reach + 1))
    side = 2 * reach + 1
    everywhere = _windows(padded, 2 * bank.half + 1)
    near = np.stack([everywhere[k, i : i + side, j : j + side] for k, (i, j) in enumerate(low)])
    position, template, colour, share = _best(near, bank)
    return _Fits(low + np.stack(np.divmod(position, side), 1), template, colour, share)


def _paint(padded: np.ndarray, fits: _Fits, bank: _Bank, sign: int, chosen: np.ndarray) -> None:
    """Adds (sign = 1) or subtracts (-1) the hypotheses of the chosen images, in place."""
    width = 2 * bank.half + 1
    for k in np.flatnonzero(chosen):
        i, j = fits.corner[k]
        cover = bank.templates[:, fits.template[k]].reshape(width, width, 1)
        padded[k, i : i + width, j : j + width] += sign * cover * bank.contrast[fits.colour[k]]


def _search(kind: Kind, padded: np.ndarray, bank: _Bank) -> _Fits:
    """Steps 1 and 2 of the module docstring."""
    resolution = padded.shape[1] - 2 * bank.half
    factor = resolution // COARSE
    inside = slice(bank.half, bank.half + resolution)
    # A coarse optimum is off by up to half a coarse pixel.
    return _fine(padded, _coarse(kind, padded[:, inside, inside], factor), bank, factor // 2 + 1)


def _search_chunk(kind: Kind, signal: np.ndarray, bank: _Bank) -> tuple[_Fits, _Fits, np.ndarray, np.ndarray]:
    """First and second hypotheses, the count, and the residual, of images less background [n, r, r, c]."""
    padded = _pad(signal, bank.half)
    first = _search(kind, padded, bank)
    one = first.fit > LEAST_FIT
    _paint(padded, first, bank, -1, one)
    second = _search(kind, padded, bank)
    two = one & (second.fit > LEAST_FIT)
    three = np.zeros_like(two)
    if two.any():
        _paint(padded, second, bank, -1, two)
        _paint(padded, first, bank, 1, one)
        first = _fine(padded, first.corner, bank, 1)
        _paint(padded, first, bank, -1, one)
        three[two] = _search(kind, padded[two], bank).fit > LEAST_FIT
    inside = slice(bank.half, bank.half + signal.shape[1])
    residual = np.sqrt(np.square(padded[:, inside, inside]).mean((1, 2, 3)))
    return first, second, one.astype(int) + two + three, residual


def search(kind: Kind, signal: Float[np.ndarray, "b r r c"]) -> Found:
    """The hypotheses that explain images less their background."""
    b, resolution = signal.shape[:2]
    bank = _bank(kind, resolution, _PHASES)
    count, residual = np.zeros(b, np.int32), np.zeros(b, np.float32)
    shape, size, colour = (np.zeros((b, 2), np.int32) for _ in range(3))
    centre, fit = np.zeros((b, 2, 2), np.float32), np.zeros((b, 2), np.float32)
    for start in range(0, b, _CHUNK):
        chunk = slice(start, min(start + _CHUNK, b))
        first, second, count[chunk], residual[chunk] = _search_chunk(kind, signal[chunk], bank)
        for slot, fits in enumerate((first, second)):
            shape[chunk, slot], size[chunk, slot] = bank.shape[fits.template], bank.size[fits.template]
            colour[chunk, slot] = fits.colour
            centre[chunk, slot] = (fits.corner[:, ::-1] + bank.offset[fits.template]) / resolution
            fit[chunk, slot] = np.clip(fits.fit, 0, 1)
    return Found(count, shape, size, colour, centre, fit, residual)
