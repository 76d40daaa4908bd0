"""Reading images: every colour mode and bit depth of Pillow, rotated by the EXIF tag, converted to 8 bits.

    8 bits, 1 bit       unchanged; a palette by its colours; CMYK, YCbCr, LAB and HSV become RGB
    16 bits of grey     value / 257
    32 bits of grey     0 .. 65535 as 16 bits (so PGM is written); anything else is refused
    floats              / 1 if all are in [0, 1], / 255 if all are in [0, 255]; anything else is refused
    transparency        on white

An image is rotated (EXIF) before its proportions are compared.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from unified_jax.modalities.jpeg import ORIENTATION, is_upright, jpeg_picture
from unified_jax.modalities.reading import first_line, read_bytes, told

LARGEST = 1 << 26
"""Most pixels of a decoded image; a broken header may claim any number."""
FORMATS = (
    *("PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "ICO", "PCX"),
    *("SGI", "QOI"),
)
"""Formats that are opened. Pillow's others run programs (EPS) or are not images."""


def known_formats() -> list[str]:
    """Those of `FORMATS` that this Pillow supports."""
    from PIL import Image as Pillow

    Pillow.init()
    return [name for name in FORMATS if name in Pillow.OPEN]


def check_pixels(picture: Any, largest: int = LARGEST) -> None:
    """Raises ValueError where an image claims too many pixels."""
    w, h = picture.size
    if w * h > largest:
        raise ValueError(f"it claims {w} x {h} pixels, more than the {largest} that are read")


def decode_picture(content: bytes) -> Any:
    """An encoded image as a decoded, upright Pillow image. Raises ValueError if it cannot be decoded."""
    from PIL import Image as Pillow, UnidentifiedImageError

    if not content:
        raise ValueError("the file is empty")
    try:
        with Pillow.open(io.BytesIO(content), formats=known_formats()) as file:
            check_pixels(file)
            if (picture := jpeg_picture(content, file)) is not None:
                return picture
            file.decodermaxblock = max(file.decodermaxblock, len(content))  # one call of the decoder
            file.load()
            return upright(file)
    except UnidentifiedImageError:
        raise ValueError(
            f"it cannot be read as an image (unknown format; known: {', '.join(known_formats()[:8])}, ...)"
        ) from None
    except Exception as error:  # decoders raise any exception
        raise ValueError(f"it cannot be read as an image ({first_line(error)})") from None


def frames_of(content: bytes) -> int:
    """How many frames an encoded image that can be read has; 1 unless it is animated."""
    from PIL import Image as Pillow

    with Pillow.open(io.BytesIO(content), formats=known_formats()) as file:
        return getattr(file, "n_frames", 1)


def upright_size(content: bytes) -> tuple[int, int]:
    """(height, width) of `decode_picture`, from the head of the file. Raises ValueError where it cannot be read."""
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(content), formats=known_formats()) as file:
            check_pixels(file)
            turned = file.getexif().get(ORIENTATION, 1) in range(5, 9)
            return (file.width, file.height) if turned else (file.height, file.width)
    except Exception:  # what cannot be read is told as by whoever decodes it
        picture = decode_picture(content)
        return picture.height, picture.width


def upright(file: Any) -> Any:
    """A loaded image, rotated as its EXIF tag says; without a copy where nothing is to be rotated."""
    from PIL import ImageOps

    still = file.format == "JPEG" or (file.format == "PNG" and not file.is_animated)
    if still and is_upright(file):
        return file
    return ImageOps.exif_transpose(file)


def load_picture(path: Path, height: int, width: int, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """An image file, scaled to this size if its proportions allow it.

    Raises ValueError if it is not an image, or its proportions differ by more than a hundredth.
    """
    with told("an image"):
        return fit_picture(decode_picture(read_bytes(path)), height, width, channels)


def fit_picture(picture: Any, height: int, width: int, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """A Pillow image as an array of this size."""
    check_proportions(picture, height, width)
    if (levels := deep_levels(picture)) is not None:
        grey = np.rint(255 * _scaled(levels, height, width)).astype(np.uint8)
        return np.repeat(grey[..., None], 1 if channels == 1 else 3, axis=-1)
    return np.asarray(_resized(shallow(picture, channels), height, width), np.uint8).reshape(height, width, -1)


def read_picture(content: bytes, channels: int) -> Any:
    """An encoded image as `as_picture` gives it. Raises ValueError if it cannot be decoded."""
    with told("an image"):
        return as_picture(decode_picture(content), channels)


def as_picture(picture: Any, channels: int) -> Any:
    """A Pillow image of 8 bits and its own size: L if it is grey or 1 channel is wanted, else RGB."""
    from PIL import Image as Pillow

    if (levels := deep_levels(picture)) is not None:
        return Pillow.fromarray(np.rint(255 * levels).astype(np.uint8))
    return shallow(picture, 1 if picture.mode in ("1", "L") else channels)


def as_bytes(picture: Any, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """An image of `as_picture` as an array of 1 channel, or else 3."""
    picture = picture if channels == 1 or picture.mode == "RGB" else picture.convert("RGB")
    return np.asarray(picture).reshape(picture.height, picture.width, -1)


def read_levels(picture: Any) -> Float[np.ndarray, "h w"]:
    """A Pillow image in grey, in [0, 1], of its own size, at its full bit depth."""
    levels = deep_levels(picture)
    return np.asarray(shallow(picture, 1), np.float32) / 255 if levels is None else levels


def fit_levels(picture: Any, height: int, width: int) -> Float[np.ndarray, "h w"]:
    """A Pillow image in grey, in [0, 1], at its full bit depth."""
    check_proportions(picture, height, width)
    if (levels := deep_levels(picture)) is not None:
        return _scaled(levels, height, width)
    return np.asarray(_resized(shallow(picture, 1), height, width), np.float32) / 255


def pixels(picture: Any, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """A Pillow image of any size as an array of 1, 3 or 4 channels; 0: 1 or 3, as its colours need."""
    if channels == 4:
        return np.asarray(picture.convert("RGBA"), np.uint8)
    grey = picture.mode in ("1", "L", "LA", "La", "I", "F") or picture.mode.startswith("I;16")
    return fit_picture(picture, picture.height, picture.width, channels or (1 if grey else 3))


def check_proportions(picture: Any, height: int, width: int) -> None:
    """Raises ValueError where the proportions differ by more than a hundredth."""
    w, h = picture.size
    if abs(w * height - h * width) > 0.01 * w * height:
        raise ValueError(f"expected the proportions {width} : {height}, found {w} x {h} pixels; crop it first")


def shallow(picture: Any, channels: int) -> Any:
    """An image of at most 8 bits in grey (1 channel) or RGB, its transparency on white."""
    from PIL import Image as Pillow, ImageCms

    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Pillow.alpha_composite(Pillow.new("RGBA", rgba.size, "white"), rgba)
    if picture.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        picture = ImageCms.profileToProfile(picture, lab, rgb, outputMode="RGB")
    mode = "L" if channels == 1 else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def deep_levels(picture: Any) -> Float[np.ndarray, "h w"] | None:
    """Grey of more than 8 bits in [0, 1], float32; None for an image of 8 bits.

    Raises ValueError for values outside the ranges in the module docstring.
    """
    if not (picture.mode in ("I", "F") or picture.mode.startswith("I;16")):
        return None
    value = np.asarray(picture).astype(np.float64)
    if not np.isfinite(value).all():
        raise ValueError(f"expected finite levels, found {int((~np.isfinite(value)).sum())} that are not")
    low, high = float(value.min()), float(value.max())
    top = 65535.0 if picture.mode != "F" else 1.0 if high <= 1 else 255.0
    if low < 0 or high > top:
        wanted = "[0, 1] or [0, 255]" if picture.mode == "F" else "0 .. 65535"
        raise ValueError(f"expected levels in {wanted}, found {low:.6g} .. {high:.6g}")
    clear = picture.info.get("transparency")
    if isinstance(clear, int):
        value = np.where(value == clear, top, value)
    return (value / top).astype(np.float32)


def _scaled(levels: Float[np.ndarray, "r s"], height: int, width: int) -> Float[np.ndarray, "h w"]:
    from PIL import Image as Pillow

    return np.clip(np.asarray(_resized(Pillow.fromarray(levels), height, width), np.float32), 0, 1)


def _resized(picture: Any, height: int, width: int) -> Any:
    from PIL import Image as Pillow

    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Pillow.Resampling.LANCZOS)
