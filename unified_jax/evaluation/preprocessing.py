r"""Images of any size as Inception's input, `[299, 299, 3]` in [-1, 1], as each published Frechet distance makes it.

    adm, torch_fidelity    TensorFlow 1's bilinear resizing: output i reads the source at i h / 299; (x - 128) / 128
    pytorch_fid            half-pixel bilinear: (i + 1/2) h / 299 - 1/2; 2 (x / 255) - 1
    clean                  Pillow's bicubic filter on floats, which averages where it shrinks, clipped to 0 .. 255;
                           (x - 128) / 128

The first two are linear along each axis: a matrix for rows and one for columns. They do not average where they shrink,
so that large pictures alias: numbers of different modes are not comparable. Grey pictures become RGB.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8

Mode = Literal["adm", "torch_fidelity", "pytorch_fid", "clean"]
MODES = get_args(Mode)
SIDE = 299


def prepare(images: UInt8[np.ndarray, "b h w c"], mode: Mode, side: int = SIDE) -> Float[np.ndarray, "b s s 3"]:
    """The network's input. Raises ValueError for images of another number of channels than 1 or 3."""
    images = as_rgb(images)
    if mode == "clean":
        return (resize_clean(images, side) - 128.0) / 128.0
    resized = resize_bilinear(images, side, half_pixel=mode == "pytorch_fid")
    return resized / 127.5 - 1.0 if mode == "pytorch_fid" else (resized - 128.0) / 128.0


def as_rgb(images: UInt8[np.ndarray, "b h w c"]) -> UInt8[np.ndarray, "b h w 3"]:
    """Grey images three times, RGB as it is. Raises ValueError for others."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"expected images uint8 [b, h, w, 1 or 3], found {images.dtype} {list(images.shape)}; decode latents first"
        )
    return images if images.shape[-1] == 3 else np.repeat(images, 3, axis=-1)


def bilinear_matrix(source: int, target: int, half_pixel: bool) -> Float[np.ndarray, "t s"]:
    """Weights of the source's pixels for each of the target's."""
    at = (np.arange(target) + 0.5) * source / target - 0.5 if half_pixel else np.arange(target) * source / target
    at = np.clip(at, 0, source - 1)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, source - 1), (at - low).astype(np.float32)
    matrix = np.zeros((target, source), np.float32)
    np.add.at(matrix, (np.arange(target), low), 1 - share)
    np.add.at(matrix, (np.arange(target), high), share)
    return matrix


def resize_bilinear(
    images: UInt8[np.ndarray, "b h w c"] | Float[np.ndarray, "b h w c"], side: int, half_pixel: bool
) -> Float[np.ndarray, "b s s c"]:
    """Bilinear resizing without averaging, float32, in the units of the input."""
    value = np.asarray(images, np.float32)
    rows, columns = (bilinear_matrix(size, side, half_pixel) for size in value.shape[1:3])
    value = np.einsum("sh,bhwc->bswc", rows, value, optimize=True)
    return np.einsum("tw,bswc->bstc", columns, value, optimize=True)


def resize_clean(images: UInt8[np.ndarray, "b h w 3"], side: int) -> Float[np.ndarray, "b s s 3"]:
    """Pillow's bicubic filter on each channel as floats, clipped to 0 .. 255; of this size: unchanged."""
    from PIL import Image as Pillow

    if images.shape[1:3] == (side, side):
        return images.astype(np.float32)
    made = np.empty((len(images), side, side, 3), np.float32)
    for i, image in enumerate(images):
        for channel in range(3):
            plane = Pillow.fromarray(np.ascontiguousarray(image[..., channel], np.float32))
            made[i, ..., channel] = np.asarray(plane.resize((side, side), Pillow.Resampling.BICUBIC))
    return np.clip(made, 0, 255)
