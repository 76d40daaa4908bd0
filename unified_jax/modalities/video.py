"""Videos: uint8 `[f, h, w, c]` outside, float32 in [-1, 1] in model space, cut into tubelets (`grid`).

An image is a video of one frame.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from unified_jax.modalities.base import Continuous, check_array
from unified_jax.modalities.files import load_film, save_film, save_mp4
from unified_jax.modalities.image import to_bytes, to_pillow


@dataclass(frozen=True)
class Video(Continuous):
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
    """Frames per second of the written files."""
    name: str = "video"
    """Field of the batch."""

    def __post_init__(self) -> None:
        if min(*self.shape, *self.patch) < 1 or self.rate <= 0:
            raise ValueError(f"Sizes and rate of a video must be positive, found {self}.")

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

    def prepare(self, raw: Any) -> UInt8[np.ndarray, "f h w c"]:
        """A uint8 array of this shape (uint16: value / 257); a longer video is cropped, an image is one frame."""
        value = np.asarray(raw)
        if value.ndim == 3 and self.frames == 1:
            value = value[None]
        if value.ndim == 4 and value.shape[0] > self.frames:
            value = value[: self.frames]
        return check_array(to_bytes(value), self.shape, np.uint8)

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
        """The first frames of a GIF, WebP or APNG, repeated by duration, or of a video that PyAV reads."""
        return load_film(path, *self.shape, self.rate)

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
