"""Reading people's pictures and films, and writing films."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8


def load_picture(path: Path, height: int, width: int, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """A picture file, scaled to this size if its proportions allow it.

    Raises ValueError where it is no picture, or its proportions differ by more than a hundredth.
    """
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with Pillow.open(path) as file:
            file.load()
            return fit_picture(file, height, width, channels)
    except (UnidentifiedImageError, Pillow.DecompressionBombError, SyntaxError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise ValueError("no such file") from None
        raise ValueError(f"it is no picture that can be read ({error})") from None


def fit_picture(picture: Any, height: int, width: int, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """A Pillow picture as an array of this size; what is transparent becomes white."""
    from PIL import Image as Pillow

    w, h = picture.size
    if abs(w * height - h * width) > 0.01 * w * height:
        raise ValueError(f"expected the proportions {width} : {height}, found {w} x {h} pixels; crop it first")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Pillow.alpha_composite(Pillow.new("RGBA", rgba.size, "white"), rgba)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if (w, h) != (width, height):
        picture = picture.resize((width, height), Pillow.Resampling.LANCZOS)
    return np.asarray(picture, np.uint8).reshape(height, width, -1)


def load_film(path: Path, frames: int, height: int, width: int, channels: int) -> UInt8[np.ndarray, "f h w c"]:
    """The frames of a GIF (or a picture, if one frame is wanted), or of a film that PyAV can read.

    A longer film gives its first frames. Raises ValueError for a shorter one, or one that cannot be read.
    """
    from PIL import Image as Pillow
    from PIL import ImageSequence, UnidentifiedImageError

    try:
        with Pillow.open(path) as file:
            found = []
            for frame in ImageSequence.Iterator(file):
                found.append(fit_picture(frame.convert("RGBA"), height, width, channels))
                if len(found) == frames:
                    break
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except UnidentifiedImageError:
        found = _film_frames(path, frames, height, width, channels)
    except (Pillow.DecompressionBombError, SyntaxError, OSError) as error:
        raise ValueError(f"it is no film that can be read ({error})") from None
    if len(found) < frames:
        raise ValueError(f"expected at least {frames} frames, found {len(found)}")
    return np.stack(found)


def _film_frames(path: Path, frames: int, height: int, width: int, channels: int) -> list[np.ndarray]:
    try:
        import av
        import av.error
    except ImportError:
        raise ValueError(
            "it is no GIF; other films need PyAV: install the extra 'film' (pip install 'unified_jax[film]')"
        ) from None
    found = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                found.append(fit_picture(frame.to_image(), height, width, channels))
                if len(found) == frames:
                    break
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise ValueError(f"it is no film that can be read ({error})") from None
    return found


def save_film(path: Path, frames: list[Any], rate: float) -> None:
    """Pillow pictures as a GIF that repeats for ever, `rate` frames a second."""
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=round(1000 / rate), loop=0, disposal=2, optimize=False
    )


def draw_words(text: str) -> Any:
    """A text, wrapped, in black on white, as a Pillow picture."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    canvas = Pillow.new("RGB", (96, 96), "white")
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(textwrap.wrap(text, 15)[:7]):
        draw.text((2, 2 + 13 * i), line, fill="black")
    return canvas
