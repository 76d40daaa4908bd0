"""Images: uint8 `[h, w, c]` outside, float32 in [-1, 1] in model space, cut into square patches (`grid`).

How pictures of other sizes become one size: `fitting`.
"""

import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from unified_jax.modalities.base import Prepared
from unified_jax.modalities.fitting import (
    CROP,
    Draw,
    Fitted,
    PictureFit,
    check_fit,
    fit_array,
    fit_pillow,
    mirrored,
    mirrored_picture,
)
from unified_jax.modalities.jpeg import jpeg_pixels
from unified_jax.modalities.pictures import as_bytes, load_picture, read_picture
from unified_jax.modalities.reading import File

GREY = 128
"""What `pad` adds."""


@dataclass(frozen=True)
class Image(Fitted):
    """Images of one size."""

    height: int = 32
    """Height in pixels."""
    width: int = 32
    """Width in pixels."""
    channels: int = 3
    """1 (grey), 3 (RGB), or the number of latent channels."""
    patch: int = 4
    """Side of a patch in pixels; other image sizes are padded to whole patches."""
    name: str = "image"
    """Field of the batch."""
    fit: PictureFit = "exact"
    """How pictures of other sizes become this size: refused, scaled, cropped or padded (`modalities.fitting`)."""
    flip: bool = False
    """Mirror training records with probability 1/2, together with the other fields of a record that do."""
    sides: tuple[str, ...] = ()
    """Words of sides, such as ("left", "right"): a record with a text that holds one is not mirrored."""
    crop: tuple[float, float] = CROP
    """Smallest and largest side of a random crop, as shares of the largest that there is."""
    border_noise: float = 0.0
    """With fit "replicate": standard deviation of the noise on what is added, in model space, drawn in each step."""
    buckets: tuple[tuple[int, int], ...] = ()
    """Further (height, width) of training batches; a record is fitted to that of the nearest proportions."""

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.channels, self.patch) < 1:
            raise ValueError(f"Image sizes must be positive, found {self}.")
        check_fit(self, get_args(PictureFit))
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"Image.crop holds the smallest and the largest side, in (0, 1]; found {self.crop}.")
        if any(min(size) < 1 for size in self.buckets) or len(set(self.sizes)) <= len(self.buckets):
            raise ValueError(f"Image.buckets holds other sizes than its own, each once; found {self.buckets}.")
        if self.buckets and (self.fit == "exact" or self.pads):
            raise ValueError(f"Image.buckets cuts or scales pictures, such as fit 'random_crop'; found {self.fit!r}.")
        if self.border_noise < 0 or (self.border_noise and self.fit != "replicate"):
            raise ValueError(f"Image.border_noise is of fit 'replicate', found {self.border_noise} with {self.fit!r}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, c)."""
        return self.height, self.width, self.channels

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Every (height, width) that it is trained at, its own first."""
        return ((self.height, self.width), *self.buckets)

    def sized(self, height: int, width: int) -> "Image":
        """The image of one of its sizes. Raises ValueError for another one."""
        if (height, width) not in self.sizes:
            known = ", ".join(f"{h} x {w}" for h, w in self.sizes)
            raise ValueError(f"{self.name!r} has the sizes {known}; found {height} x {width}.")
        return replace(self, height=height, width=width, buckets=())

    @property
    def cut(self) -> tuple[int, int]:
        """Rows and columns of a patch."""
        return (self.patch, self.patch)

    @property
    def suffix(self) -> str:
        """PNG."""
        return ".png"

    def blank(self) -> UInt8[np.ndarray, "h w c"]:
        """Zeros in place of a prepared example."""
        return np.zeros(self.shape, np.uint8)

    def read(self, file: File) -> UInt8[np.ndarray, "h w c"]:
        """An image file of any mode and depth at its own size, rotated by its EXIF tag, in grey or RGB."""
        return as_bytes(read_picture(file.content, self.channels), self.channels)

    def prepare(self, raw: Any) -> Prepared:
        """A uint8 array of this shape (uint16: value / 257), by `fit`; with "pad" and "replicate" also NAME.inside.

        A file is read first. Grey `[h, w]` gains a channel axis; grey becomes RGB, but not with fit "exact". A video
        `[f, h, w, c]` gives its first frame.
        """
        value = self.fitted(raw, None)
        if self.pads and self._is_picture(value):
            return self.padded(value, self.shape[:2], GREY if self.fit == "pad" else None)
        if value.dtype != np.uint8 or value.shape != self.shape:
            hint = f"; {self.other_fit}" if self._is_picture(value) else ""
            raise ValueError(f"expected uint8 {list(self.shape)}, found {value.dtype} {list(value.shape)}{hint}")
        return value

    def fitted(self, raw: Any, drawn: Draw | None) -> np.ndarray:
        """A file or an array, fitted and mirrored; what `prepare` refuses stays as it is."""
        target = (self.height, self.width)
        if isinstance(raw, File):
            content, whole = raw.content, self.fit != "random_crop" or drawn is None
            mirror = self.flip and drawn is not None and drawn.mirrored
            if whole and (value := jpeg_pixels(content, self.shape, mirror)) is not None:
                return value
            picture = read_picture(content, self.channels)
            picture = fit_pillow(picture, target, self.fit, drawn, self.crop)
            return as_bytes(mirrored_picture(picture, self.flip, drawn), self.channels)
        value = to_bytes(np.asarray(raw))
        if value.ndim == 4 and len(value):
            value = value[0]
        if value.ndim == 2 and self.channels == 1:
            value = value[..., None]
        if self.fit != "exact" and value.ndim == 3 and value.shape[-1] == 1 and self.channels == 3:
            value = np.repeat(value, 3, axis=-1)  # as of a grey file
        if not self._is_picture(value):
            return value
        return mirrored(fit_array(value, target, self.fit, drawn, self.crop), self.flip, drawn)

    def _is_picture(self, value: np.ndarray) -> bool:
        return value.dtype == np.uint8 and value.ndim == 3 and value.shape[-1] == self.channels and value.size > 0

    def to_model(self, raw: Array) -> Float[Array, "b h w c"]:
        """uint8 0 .. 255 to [-1, 1]."""
        return raw.astype(jnp.float32) / 127.5 - 1.0

    def from_model(self, x: Array | np.ndarray) -> UInt8[np.ndarray, "b h w c"]:
        """[-1, 1] to uint8, clipped and rounded."""
        return np.asarray(np.clip(np.round((np.asarray(x, np.float32) + 1.0) * 127.5), 0, 255), np.uint8)

    def to_prepared(self, x: Array) -> UInt8[Array, "b h w c"]:
        """The same in a program, for the links of a chain."""
        return jnp.clip(jnp.round((x.astype(jnp.float32) + 1.0) * 127.5), 0, 255).astype(jnp.uint8)

    def load(self, path: Path) -> UInt8[np.ndarray, "h w c"]:
        """An image file of any mode and depth, rotated by its EXIF tag and scaled to this size, or by another `fit`."""
        return load_picture(path, *self.shape) if self.fit == "exact" else self.read(File(path.name, path))

    def save(self, path: Path, example: UInt8[np.ndarray, "h w c"]) -> None:
        """One image as PNG."""
        to_pillow(example).save(path)

    def picture(self, example: UInt8[np.ndarray, "h w c"]) -> Any:
        """The image itself."""
        return to_pillow(example)


def to_bytes(value: np.ndarray) -> np.ndarray:
    """16-bit values as 8-bit values, value / 257; anything else unchanged."""
    return np.rint(value / 257).astype(np.uint8) if value.dtype == np.uint16 else value


def to_pillow(example: UInt8[np.ndarray, "h w c"]) -> Any:
    """A Pillow image of 1, 2, 3 or (first three of) more channels."""
    from PIL import Image as Pillow

    if example.shape[-1] == 1:
        return Pillow.fromarray(np.repeat(example, 3, axis=-1))
    if example.shape[-1] == 2:
        example = np.pad(example, [(0, 0), (0, 0), (0, 1)])
    return Pillow.fromarray(np.ascontiguousarray(example[..., :3]))


def sheet(
    images: UInt8[np.ndarray, "b h w c"], columns: int | None = None, titles: list[str] | None = None, height: int = 112
) -> Any:
    """An image grid (Pillow): images enlarged to about `height` pixels, in rows, each over its title."""
    from PIL import Image as Pillow, ImageDraw

    columns = columns or int(np.ceil(np.sqrt(len(images))))
    scale = max(1, round(height / images.shape[1]))
    h, w, gap = images.shape[1] * scale, images.shape[2] * scale, 4
    wrapped = [textwrap.wrap(title, max(8, w // 6)) for title in titles or []]
    text = 13 * max((len(lines) for lines in wrapped), default=0)
    rows = -(-len(images) // columns)
    canvas = Pillow.new("RGB", (gap + columns * (w + gap), gap + rows * (h + text + gap)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, image in enumerate(images):
        x, y = gap + (i % columns) * (w + gap), gap + (i // columns) * (h + text + gap)
        canvas.paste(to_pillow(image).resize((w, h), Pillow.Resampling.NEAREST), (x, y))
        for j, line in enumerate(wrapped[i] if wrapped else []):
            draw.text((x + 1, y + h + 13 * j), line, fill="black")
    return canvas
