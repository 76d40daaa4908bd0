"""Fitting pictures of any size to one size, as papers do, and what a training record varies.

    exact         refused unless it has this size
    resize        scaled to this size, whatever its proportions
    center_crop   the largest part in the middle that has these proportions (ADM and DiT: while both sides are at least
                  twice the wanted ones they are halved by box means; then one bicubic scaling so that the picture just
                  covers this size; then whole pixels are cut off, one more at the end)
    random_crop   in training a part of `crop` times that side, anywhere (ADM: 0.8 to 1); center_crop elsewhere
    pad           scaled to just fit inside, in the middle of grey; what is added has no loss
    replicate     as pad, and what is added repeats the border (of pictures)

Scaling is Pillow's bicubic filter, which averages where it shrinks; smaller pictures are enlarged by it.

What a training record varies: `draws`.
"""

from abc import abstractmethod
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Int

from unified_jax.modalities.base import INSIDE, Continuous
from unified_jax.modalities.draws import Draw, draw, names_side
from unified_jax.modalities.pictures import LARGEST

Fit = Literal["exact", "resize", "center_crop", "random_crop", "pad"]
FITS = get_args(Fit)
PictureFit = Literal["exact", "resize", "center_crop", "random_crop", "pad", "replicate"]
PADS = ("pad", "replicate")
"""Those that add something."""
Start = Literal["first", "random"]
"""Where a longer record is cut in time: at its beginning, or in training anywhere."""
TALL = 1.75
"""Height by width above which Pillow may scale rows before columns."""
CROP = (0.8, 1.0)
"""Smallest and largest side of a random crop, as shares of the largest that there is."""


class Fitted(Continuous):
    """The base class of modalities that fit records of other sizes: what a draw says is done before `prepare`."""

    fit: Any
    flip: bool = False
    start: Start = "first"
    sides: tuple[str, ...] = ()
    takes_files = True
    other_fit = "choose another fit than 'exact', such as 'center_crop'"
    """What to do about another size."""

    @abstractmethod
    def fitted(self, raw: Any, drawn: Draw | None) -> np.ndarray:
        """A file or an array, decoded, cut, fitted and mirrored; once fitted, it stays as it is without a draw.

        Raises ValueError as `prepare` does, which refuses what cannot be fitted.
        """

    @property
    def varies(self) -> bool:
        """Whether it mirrors, or cuts at random in space or time."""
        return self.flip or self.fit == "random_crop" or self.start == "random"

    def vary(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The record with this field fitted as this draw says."""
        drawn = self.drawn(record, rng)
        return record | {self.name: self.fitted(record[self.name], drawn)} if self.name in record else record

    def drawn(self, record: dict[str, Any], rng: np.random.Generator) -> Draw:
        """The numbers of a record, which is not mirrored where a text of it names a side."""
        drawn = draw(rng)
        return drawn._replace(flip=1.0) if self.flip and names_side(record, self.sides) else drawn

    @property
    def pads(self) -> bool:
        """Whether it adds something, which has no loss."""
        return self.fit in PADS

    def padded(self, value: np.ndarray, sizes: tuple[int, ...], fill: int | float | None) -> dict[str, np.ndarray]:
        """The fields of `prepare` with fit "pad" or "replicate"."""
        canvas, bounds = pad(value, sizes, fill)
        return {self.name: canvas, self.name + INSIDE: bounds}


class Part(NamedTuple):
    """A part of a picture and its size in the end, in pixels."""

    halved: tuple[tuple[int, int], ...]
    """(width, height) after each halving."""
    box: tuple[float, float, float, float]
    """Left, upper, right and lower end of the part that is scaled, after halving."""
    size: tuple[int, int]
    """(width, height) that it is scaled to."""
    cut: tuple[int, int, int, int]
    """Left, upper, right and lower end of what is kept of it."""


def check_fit(owner: Any, fits: tuple[str, ...] = FITS) -> None:
    """Raises ValueError for an unknown `fit` or `start` of a modality."""
    kind = type(owner).__name__
    if owner.fit not in fits:
        raise ValueError(f"{kind}.fit is one of {', '.join(fits)}; found {owner.fit!r}.")
    if getattr(owner, "start", "first") not in ("first", "random"):
        raise ValueError(f"{kind}.start is 'first' or 'random', found {owner.start!r}.")
    if any(not word.strip() for word in owner.sides):
        raise ValueError(f"{kind}.sides holds words, found {owner.sides}.")


def part_of(
    source: tuple[int, int], target: tuple[int, int], fit: PictureFit, drawn: Draw | None,
    crop: tuple[float, float] = CROP,
) -> Part:  # fmt: skip
    """The part of a picture of this (height, width) that a fit takes; of `pad` it is at most the target's size."""
    (rows, columns), (height, width) = source, target
    if fit in PADS:
        scale = min(height / rows, width / columns)
        height, width = min(height, max(1, round(rows * scale))), min(width, max(1, round(columns * scale)))
    if fit not in ("center_crop", "random_crop"):
        return Part((), (0, 0, columns, rows), (width, height), (0, 0, width, height))
    least, most = crop
    zoom = 1 / most + drawn.side * (1 / least - 1 / most) if drawn is not None and fit == "random_crop" else 1.0
    halved = []
    while columns >= 2 * width * zoom and rows >= 2 * height * zoom:
        columns, rows = columns // 2, rows // 2
        halved.append((columns, rows))
    scale = zoom * max(height / rows, width / columns)
    if drawn is not None and fit == "random_crop":
        left, top = drawn.left * (columns - width / scale), drawn.top * (rows - height / scale)
        ends = min(columns, left + width / scale), min(rows, top + height / scale)
        return Part(tuple(halved), (max(0.0, left), max(0.0, top), *ends), (width, height), (0, 0, width, height))
    across, down = max(width, round(columns * scale)), max(height, round(rows * scale))
    left, top = (across - width) // 2, (down - height) // 2
    if across * down > LARGEST:  # a narrow picture, enlarged
        box = (left * columns / across, top * rows / down)
        box = (*box, (left + width) * columns / across, (top + height) * rows / down)
        return Part(tuple(halved), box, (width, height), (0, 0, width, height))
    return Part(tuple(halved), (0, 0, columns, rows), (across, down), (left, top, left + width, top + height))


def fit_pillow(
    picture: Any, target: tuple[int, int], fit: PictureFit, drawn: Draw | None = None,
    crop: tuple[float, float] = CROP,
) -> Any:  # fmt: skip
    """A Pillow image of mode L, RGB or F, fitted; not mirrored. `exact` leaves it as it is."""
    from PIL import Image as Pillow

    if fit == "exact":
        return picture
    part = part_of((picture.height, picture.width), target, fit, drawn, crop)
    for size in part.halved:
        picture = picture.resize(size, Pillow.Resampling.BOX)
    if part.cut != (0, 0, *part.size):
        return _scaled_part(picture, part)
    if picture.size == part.size and part.box == (0, 0, *part.size):
        return picture
    return picture.resize(part.size, Pillow.Resampling.BICUBIC, box=part.box)


def _scaled_part(picture: Any, part: Part) -> Any:
    """What is kept of the whole picture once scaled, to one level in the 10,000th part of its numbers.

    Pillow scales columns, then rows, and rounds in between. Here the passes are called one by one, each for what the
    next needs. Where rows are cut off, a box says which are wanted; Pillow holds its ends in single precision. Of some
    pictures, much higher than wide, Pillow scales the rows first: they are scaled whole.
    """
    from PIL import Image as Pillow

    (across, down), (left, upper, right, lower) = part.size, part.cut
    if picture.height > TALL * picture.width:
        return picture.resize(part.size, Pillow.Resampling.BICUBIC).crop(part.cut)
    scale, first, last = picture.height / down, 0, picture.height
    if cut := (upper, lower) != (0, down):  # two pixels of the filter, and one for rounding
        margin = 2 * max(1.0, scale) + 1
        first, last = max(0, int(upper * scale - margin)), min(last, int(lower * scale + margin) + 1)
        picture = picture.crop((0, first, picture.width, last))
    picture = picture.resize((across, picture.height), Pillow.Resampling.BICUBIC)
    if (left, right) != (0, across):
        picture = picture.crop((left, 0, right, picture.height))
    box = (0, upper * scale - first, right - left, lower * scale - first) if cut else None
    return picture.resize((right - left, lower - upper), Pillow.Resampling.BICUBIC, box=box)


def fit_array(
    value: np.ndarray, target: tuple[int, int], fit: PictureFit, drawn: Draw | None = None,
    crop: tuple[float, float] = CROP,
) -> np.ndarray:  # fmt: skip
    """A picture `[h, w, c]` of uint8, or of floats in [0, 1], fitted and mirrored by `drawn`.

    Raises ValueError for a picture without pixels.
    """
    if not value.size:
        raise ValueError(f"expected a picture, found one of {list(value.shape)}")
    if fit != "exact" and (value.shape[:2] != target or (fit == "random_crop" and drawn is not None)):
        made = [np.asarray(fit_pillow(plane, target, fit, drawn, crop)) for plane in planes(value)]
        value = made[0] if made[0].ndim == 3 else np.stack(made, axis=-1)
        value = value if value.dtype == np.uint8 else np.clip(value, 0, 1)
    return value


def mirrored(value: np.ndarray, flip: bool, drawn: Draw | None) -> np.ndarray:
    """Pictures `[..., h, w, c]`, left and right exchanged where `flip` is set and the draw says so."""
    return value[..., ::-1, :] if flip and drawn is not None and drawn.mirrored else value


def mirrored_picture(picture: Any, flip: bool, drawn: Draw | None) -> Any:
    """The same of a Pillow image: as an array it would be copied backwards, several times as slowly."""
    from PIL import Image as Pillow

    return picture.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT) if flip and drawn and drawn.mirrored else picture


def planes(value: np.ndarray) -> list[Any]:
    """Pillow images that together hold `[h, w, c]`: one in RGB for three bytes, else one for each channel."""
    from PIL import Image as Pillow

    if value.dtype == np.uint8 and value.shape[-1] == 3:
        return [Pillow.fromarray(np.ascontiguousarray(value))]
    kept = value if value.dtype == np.uint8 else value.astype(np.float32)
    return [Pillow.fromarray(np.ascontiguousarray(kept[..., channel])) for channel in range(value.shape[-1])]


def pad(
    value: np.ndarray, target: tuple[int, ...], fill: int | float | None
) -> tuple[np.ndarray, Int[np.ndarray, "a 2"]]:
    """An array in the middle of a constant one, or of copies of its border (None), and where it lies.

    That is (start, stop) along each axis of `target`.
    Time, the axis of a sound or before rows and columns, is added at the end. Further axes are channels.
    """
    free = [size - there for size, there in zip(target, value.shape, strict=False)]
    before = [0 if axis < len(target) % 2 else room // 2 for axis, room in enumerate(free)]
    bounds = np.asarray([(first, first + there) for first, there in zip(before, value.shape, strict=False)], np.int32)
    if fill is None:
        room = [(first, size - last) for (first, last), size in zip(bounds.tolist(), target, strict=True)]
        return np.pad(value, [*room, *[(0, 0)] * (value.ndim - len(target))], mode="edge"), bounds
    canvas = np.full((*target, *value.shape[len(target) :]), fill, value.dtype)
    canvas[tuple(slice(first, last) for first, last in bounds)] = value
    return canvas, bounds


def cut_start(found: int, wanted: int, start: Start, drawn: Draw | None) -> int:
    """Where the wanted frames or samples of a longer record begin."""
    if start != "random" or drawn is None or found <= wanted:
        return 0
    return int(drawn.start * (found - wanted + 1))
