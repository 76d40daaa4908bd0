"""JPEG pixels by libjpeg-turbo, as arrays: the bytes that Pillow gives, without its own copy of the picture.

Pillow bundles the same decoder; it unpacks each line into four bytes a pixel, and packs them again for an array.
"""

import io
from contextlib import suppress
from typing import Any

import numpy as np
from jaxtyping import UInt8

ORIENTATION = 0x112
"""The EXIF tag that says how a picture is rotated."""
_START = b"\xff\xd8\xff"


def is_upright(file: Any) -> bool:
    """Whether the EXIF tag of an opened Pillow image leaves it as it is."""
    return file.getexif().get(ORIENTATION, 1) not in range(2, 9)


def jpeg_pixels(
    content: bytes, shape: tuple[int, int, int], mirrored: bool = False
) -> UInt8[np.ndarray, "h w c"] | None:
    """A JPEG that is upright and has this shape (1 channel: grey, 3: colours), mirrored if wanted.

    None for any other file, also a damaged one: Pillow reads it, or says what is wrong with it.
    """
    from PIL import Image as Pillow

    height, width, channels = shape
    if not content.startswith(_START):
        return None
    with suppress(Exception), Pillow.open(io.BytesIO(content), formats=("JPEG",)) as file:
        fits = file.format == "JPEG" and file.size == (width, height)
        if fits and file.mode == {1: "L", 3: "RGB"}.get(channels) and is_upright(file):
            return _decoded(content, channels, mirrored)
    return None


def jpeg_picture(content: bytes, file: Any) -> Any:
    """An upright JPEG in colours, opened as `file`, as a decoded Pillow image in RGB over the decoder's own memory.

    None for any other file.
    """
    if file.format != "JPEG" or file.mode != "RGB" or not is_upright(file):
        return None
    import pyarrow as pa
    from PIL import Image as Pillow
    from simplejpeg import decode_jpeg

    with suppress(Exception):
        pixels = decode_jpeg(content, "RGBX")  # Pillow holds a colour in four bytes
        held: Any = pa.Array.from_buffers(pa.uint8(), pixels.size, [None, pa.py_buffer(pixels)])
        return Pillow.fromarrow(pa.FixedSizeListArray.from_arrays(held, 4), "RGB", file.size)
    return None


def _decoded(content: bytes, channels: int, mirrored: bool) -> UInt8[np.ndarray, "h w c"]:
    from simplejpeg import decode_jpeg

    if channels == 1:
        grey = decode_jpeg(content, "GRAY")
        return grey[:, ::-1] if mirrored else grey
    # Bytes are copied backwards several times as fast as pixels: blue first, then both axes reversed.
    return decode_jpeg(content, "BGR")[:, ::-1, ::-1] if mirrored else decode_jpeg(content, "RGB")
