"""Depth: distances float32 `[f, h, w, 1]` in [0, 1] outside (1 is the far wall), in [-1, 1] in model space.

A depth map is a video of one frame. How maps of other sizes become one size: `fitting`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.modalities.base import Prepared, check_array
from unified_jax.modalities.files import load_levels
from unified_jax.modalities.films import LARGEST_READ, read_frames
from unified_jax.modalities.fitting import Draw, Fit, Fitted, Start, check_fit, cut_start, fit_array, mirrored
from unified_jax.modalities.pictures import LARGEST, read_levels
from unified_jax.modalities.reading import File


@dataclass(frozen=True)
class Depth(Fitted):
    """Depth maps or depth videos of one size."""

    frames: int = 1
    """Frames; 1 is a single depth map."""
    height: int = 32
    """Height in pixels."""
    width: int = 32
    """Width in pixels."""
    patch: tuple[int, int, int] = (1, 8, 8)
    """Frames, rows and columns of a patch."""
    name: str = "depth"
    """Field of the batch."""
    fit: Fit = "exact"
    """How maps of other sizes become this size, as in `Image`; "pad" also fills up shorter videos."""
    flip: bool = False
    """Mirror training records with probability 1/2, together with the other fields of a record that do."""
    start: Start = "first"
    """Where a longer video is cut: at its beginning, or in training anywhere."""
    sides: tuple[str, ...] = ()
    """Words of sides: a record with a text that holds one is not mirrored."""

    def __post_init__(self) -> None:
        if min(*self.shape, *self.patch) < 1:
            raise ValueError(f"Depth sizes must be positive, found {self}.")
        check_fit(self)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(f, h, w, 1)."""
        return self.frames, self.height, self.width, 1

    @property
    def cut(self) -> tuple[int, int, int]:
        """Frames, rows and columns of a patch."""
        return self.patch

    @property
    def suffix(self) -> str:
        """16-bit PNG; TIFF for videos, one page per frame."""
        return ".png" if self.frames == 1 else ".tif"

    def read(self, file: File) -> Float[np.ndarray, "f h w 1"]:
        """The first pages of a grey image, of their own size, or fewer if there are fewer; black is near."""
        return self._read(file, None)

    def prepare(self, raw: Any) -> Prepared:
        """A float array of this shape in [0, 1], by `fit`; with "pad" also NAME.inside.

        A file is read first. `[h, w]` and `[h, w, 1]` gain axes, a longer video is cropped.
        """
        value = self.fitted(raw, None)
        if self.pads:
            return self.padded(value, self.shape[:3], 0.5)
        return check_array(value, self.shape, np.float32)

    def fitted(self, raw: Any, drawn: Draw | None) -> Float[np.ndarray, "f h w 1"]:
        """A file or an array of floats in [0, 1], cut, fitted and mirrored."""
        value = self._read(raw, drawn) if isinstance(raw, File) else np.asarray(raw)
        value = value[..., None] if value.ndim == 2 else value
        value = value[None] if value.ndim == 3 else value
        if value.ndim == 4 and value.shape[0] > self.frames:
            first = cut_start(len(value), self.frames, self.start, drawn)
            value = value[first : first + self.frames]
        wanted = self.shape
        if value.ndim == 4 and value.shape[-1] == 1 and value.size and np.issubdtype(value.dtype, np.floating):
            if self.fit == "exact" and drawn is None and value.shape != self.shape:
                raise ValueError(f"expected float {list(wanted)}, found {list(value.shape)}; {self.other_fit}")
            wanted = value.shape
        value = check_array(value, wanted, np.float32)
        if value.min() < 0 or value.max() > 1:
            raise ValueError(f"expected distances in [0, 1], found {value.min():.3g} .. {value.max():.3g}")
        if self.fit != "exact":
            value = np.stack([fit_array(frame, self.shape[1:3], self.fit, drawn) for frame in value])
        return mirrored(value, self.flip, drawn)

    def _read(self, file: File, drawn: Draw | None) -> Float[np.ndarray, "f h w 1"]:
        largest = min(LARGEST, LARGEST_READ // self.frames)
        decode = lambda page: read_levels(page)[..., None]  # noqa: E731
        return read_frames(file, self.frames, 16.0, decode, self.start, drawn, largest)

    def to_model(self, raw: Array) -> Float[Array, "b f h w 1"]:
        """[0, 1] to [-1, 1]."""
        return 2.0 * raw - 1.0

    def from_model(self, x: Array | np.ndarray) -> Float[np.ndarray, "b f h w 1"]:
        """[-1, 1] to [0, 1], clipped."""
        return np.clip((np.asarray(x, np.float32) + 1) / 2, 0, 1)

    def to_prepared(self, x: Array) -> Float[Array, "b f h w 1"]:
        """The same in a program, for the links of a chain."""
        return jnp.clip((x + 1) / 2, 0, 1)

    def load(self, path: Path) -> Float[np.ndarray, "f h w 1"]:
        """A grey image (8, 16 or 32 bits, floats) in which black is near; for a video a TIFF of as many pages."""
        if self.fit != "exact":
            return self.read(File(path.name, path))
        return load_levels(path, self.frames, self.height, self.width)[..., None]

    def save(self, path: Path, example: Float[np.ndarray, "f h w 1"]) -> None:
        """16-bit grey: one frame as PNG, a video as TIFF, one page per frame."""
        from PIL import Image as Pillow

        levels = np.round(np.clip(example[..., 0], 0, 1) * 65535).astype(np.uint16)
        pages = [Pillow.fromarray(level) for level in levels]
        if len(pages) == 1:
            pages[0].save(path)
        else:
            pages[0].save(path, format="TIFF", save_all=True, append_images=pages[1:])

    def picture(self, example: Float[np.ndarray, "f h w 1"]) -> Any:
        """The first frame in grey, near is bright."""
        from PIL import Image as Pillow

        grey = np.round((1 - example[0]) * 255).astype(np.uint8)
        return Pillow.fromarray(np.repeat(grey, 3, axis=-1))
