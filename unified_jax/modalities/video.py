"""Videos: uint8 `[f, h, w, c]` outside, float32 in [-1, 1] in model space, cut into tubelets (`grid`).

An image is a video of one frame. How frames of other sizes become one size: `fitting`; at which times they are taken
from a file: `films`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from unified_jax.modalities.base import Prepared, check_array
from unified_jax.modalities.files import load_film, save_film, save_mp4
from unified_jax.modalities.films import LARGEST_READ, read_frames
from unified_jax.modalities.fitting import (
    Draw,
    Fit,
    Fitted,
    Start,
    check_fit,
    cut_start,
    fit_array,
    fit_pillow,
    mirrored,
)
from unified_jax.modalities.image import GREY, to_bytes, to_pillow
from unified_jax.modalities.pictures import LARGEST, as_bytes, as_picture
from unified_jax.modalities.reading import File


@dataclass(frozen=True)
class Video(Fitted):
    """Videos of one size and length."""

    frames: int = 8
    """Frames."""
    height: int = 32
    """Height in pixels."""
    width: int = 32
    """Width in pixels."""
    channels: int = 3
    """1 (grey), 3 (RGB), or the number of latent channels."""
    patch: tuple[int, int, int] = (2, 8, 8)
    """Frames, rows and columns of a tubelet."""
    rate: float = 16.0
    """Frames per second: of the written files, and at which a data set's files are read."""
    name: str = "video"
    """Field of the batch."""
    fit: Fit = "exact"
    """How frames of other sizes become this size, as in `Image`; "pad" also fills up shorter videos."""
    flip: bool = False
    """Mirror training records with probability 1/2, together with the other fields of a record that do."""
    start: Start = "first"
    """Where a longer video is cut: at its beginning, or in training anywhere."""
    sides: tuple[str, ...] = ()
    """Words of sides: a record with a text that holds one is not mirrored."""

    def __post_init__(self) -> None:
        if min(*self.shape, *self.patch) < 1 or self.rate <= 0:
            raise ValueError(f"Sizes and rate of a video must be positive, found {self}.")
        check_fit(self)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(f, h, w, c)."""
        return self.frames, self.height, self.width, self.channels

    @property
    def cut(self) -> tuple[int, int, int]:
        """Frames, rows and columns of a tubelet."""
        return self.patch

    @property
    def suffix(self) -> str:
        """GIF."""
        return ".gif"

    def blank(self) -> UInt8[np.ndarray, "f h w c"]:
        """Zeros in place of a prepared example."""
        return np.zeros(self.shape, np.uint8)

    def read(self, file: File) -> UInt8[np.ndarray, "f h w c"]:
        """The first frames of a video file at this rate (`films`), of their own size, or fewer if it is shorter."""
        return self._read(file, "exact", None)

    def prepare(self, raw: Any) -> Prepared:
        """A uint8 array of this shape (uint16: value / 257), by `fit`; with "pad" also NAME.inside.

        A file is read first. A longer video is cropped, an image is one frame.
        """
        value = self.fitted(raw, None)
        if self.pads and self._is_film(value):
            return self.padded(value, self.shape[:3], GREY)
        if self._is_film(value) and value.shape != self.shape:
            hint = "fit 'pad' fills up shorter videos" if len(value) < self.frames else self.other_fit
            raise ValueError(f"expected uint8 {list(self.shape)}, found uint8 {list(value.shape)}; {hint}")
        return check_array(value, self.shape, np.uint8)

    def fitted(self, raw: Any, drawn: Draw | None) -> np.ndarray:
        """A file or an array, cut, fitted and mirrored; what `prepare` refuses stays as it is."""
        if isinstance(raw, File):
            return mirrored(self._read(raw, self.fit, drawn), self.flip, drawn)
        value = to_bytes(np.asarray(raw))
        if value.ndim == 3 and (self.frames == 1 or self.pads):
            value = value[None]
        if value.ndim == 4 and value.shape[0] > self.frames:
            first = cut_start(len(value), self.frames, self.start, drawn)
            value = value[first : first + self.frames]
        if not self._is_film(value):
            return value
        if self.fit != "exact":
            value = np.stack([fit_array(frame, self.shape[1:3], self.fit, drawn) for frame in value])
        return mirrored(value, self.flip, drawn)

    def _read(self, file: File, fit: Fit, drawn: Draw | None) -> UInt8[np.ndarray, "f h w c"]:
        def decode(picture: Any) -> np.ndarray:
            fitted = fit_pillow(as_picture(picture, self.channels), self.shape[1:3], fit, drawn)
            return as_bytes(fitted, self.channels)

        largest = LARGEST if fit != "exact" else min(LARGEST, LARGEST_READ // self.frames)
        return read_frames(file, self.frames, self.rate, decode, self.start, drawn, largest)

    def _is_film(self, value: np.ndarray) -> bool:
        return value.dtype == np.uint8 and value.ndim == 4 and value.shape[-1] == self.channels and value.size > 0

    def to_model(self, raw: Array) -> Float[Array, "b f h w c"]:
        """uint8 0 .. 255 to [-1, 1]."""
        return raw.astype(jnp.float32) / 127.5 - 1.0

    def from_model(self, x: Array | np.ndarray) -> UInt8[np.ndarray, "b f h w c"]:
        """[-1, 1] to uint8, clipped and rounded."""
        return np.asarray(np.clip(np.round((np.asarray(x, np.float32) + 1.0) * 127.5), 0, 255), np.uint8)

    def to_prepared(self, x: Array) -> UInt8[Array, "b f h w c"]:
        """The same in a program, for the links of a chain."""
        return jnp.clip(jnp.round((x.astype(jnp.float32) + 1.0) * 127.5), 0, 255).astype(jnp.uint8)

    def load(self, path: Path) -> UInt8[np.ndarray, "f h w c"]:
        """The first frames of a GIF, WebP or APNG, repeated by duration, or of a video that PyAV reads.

        With another `fit` than "exact", as a data set's files are read.
        """
        return load_film(path, *self.shape, self.rate) if self.fit == "exact" else self.read(File(path.name, path))

    def save(self, path: Path, example: UInt8[np.ndarray, "f h w c"]) -> None:
        """One video, every frame of it: as GIF, or as MP4 where the path ends so (ValueError without PyAV)."""
        if path.suffix == ".mp4":
            save_mp4(path, example, self.rate)
            return
        save_film(path, [to_pillow(frame) for frame in example], self.rate)

    def picture(self, example: UInt8[np.ndarray, "f h w c"]) -> Any:
        """Four frames from the first to the last, two by two."""
        from PIL import Image as Pillow

        chosen = np.linspace(0, len(example) - 1, 4).round().astype(int)
        canvas = Pillow.new("RGB", (2 * self.width + 1, 2 * self.height + 1), "white")
        for i, frame in enumerate(chosen):
            canvas.paste(to_pillow(example[frame]), ((i % 2) * (self.width + 1), (i // 2) * (self.height + 1)))
        return canvas
