"""JPEGs that are decoded without Pillow: the same bytes, and only where nothing else is to be done."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

import unified_jax as uj
from unified_jax.modalities.fitting import Draw
from unified_jax.modalities.jpeg import ORIENTATION, jpeg_pixels
from unified_jax.modalities.pictures import decode_picture
from unified_jax.modalities.reading import File

SIZE = (37, 50)
STILL, MIRRORED = Draw(0.9, 0, 0, 0, 0), Draw(0.1, 0, 0, 0, 0)


def picture(mode: str = "RGB") -> Pillow.Image:
    """Smooth colours and noise of an odd size."""
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(SIZE[0]), np.arange(SIZE[1]))[..., None] * np.array([2, 1, 0.5])
    return Pillow.fromarray(np.clip(ramp + rng.normal(80, 20, (*SIZE, 3)), 0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Pillow.Image, **options: Any) -> bytes:
    """As a JPEG."""
    made = io.BytesIO()
    image.save(made, "JPEG", **options)
    return made.getvalue()


def pillows(content: bytes) -> Pillow.Image:
    """As Pillow decodes it."""
    return Pillow.open(io.BytesIO(content))


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"quality": 95}),
        ("RGB", {"quality": 30, "subsampling": 0}),
        ("RGB", {"subsampling": 1}),
        ("RGB", {"subsampling": 2, "optimize": True}),
        ("RGB", {"progressive": True}),
        ("RGB", {"keep_rgb": True}),
        ("RGB", {"restart_marker_rows": 1}),
        ("L", {"quality": 60}),
        ("L", {"progressive": True}),
    ],
)
def test_the_bytes_are_pillows(mode: str, options: dict[str, Any]) -> None:
    """Of every kind of upright JPEG, as it is and mirrored."""
    content = encoded(picture(mode), **options)
    shape = (*SIZE, 1 if mode == "L" else 3)
    wanted = np.asarray(pillows(content)).reshape(shape)
    for mirrored in (False, True):
        found = jpeg_pixels(content, shape, mirrored)
        assert found is not None
        np.testing.assert_array_equal(found, wanted[:, ::-1] if mirrored else wanted)
    decoded = decode_picture(content)
    np.testing.assert_array_equal(np.asarray(decoded).reshape(shape), wanted)
    np.testing.assert_array_equal(np.asarray(decoded.resize((20, 30))), np.asarray(pillows(content).resize((20, 30))))


def test_everything_else_is_left_to_pillow() -> None:
    """Other formats, sizes and colours, rotated pictures, damaged files."""
    content, shape = encoded(picture()), (*SIZE, 3)
    turned = Pillow.Exif()
    turned[ORIENTATION] = 6
    png = io.BytesIO()
    picture().save(png, "PNG")
    assert jpeg_pixels(content, shape) is not None
    assert jpeg_pixels(content, (SIZE[1], SIZE[0], 3)) is None
    assert jpeg_pixels(content, (*SIZE, 1)) is None
    assert jpeg_pixels(content, (*SIZE, 4)) is None
    assert jpeg_pixels(encoded(picture("L")), shape) is None
    assert jpeg_pixels(encoded(picture("CMYK")), shape) is None
    assert jpeg_pixels(encoded(picture(), exif=turned), shape) is None
    assert jpeg_pixels(png.getvalue(), shape) is None
    assert jpeg_pixels(content[: len(content) // 2], shape) is None
    assert jpeg_pixels(b"", shape) is None


@pytest.mark.parametrize("fit", ["exact", "resize", "center_crop", "random_crop", "pad", "replicate"])
@pytest.mark.parametrize("drawn", [None, STILL, MIRRORED])
def test_an_image_is_the_same_from_a_file_and_from_its_array(fit: Any, drawn: Draw | None) -> None:
    """With every fit: a file that has the size already is not decoded by Pillow, an array is fitted."""
    image = uj.Image(*SIZE, 3, patch=1, fit=fit, flip=True)
    content = encoded(picture())
    array = np.asarray(pillows(content))
    np.testing.assert_array_equal(image.fitted(File("a.jpg", stored=content), drawn), image.fitted(array, drawn))


def test_a_damaged_jpeg_is_named_as_before() -> None:
    """What the fast decoder refuses, Pillow says."""
    image, content = uj.Image(*SIZE, 3, patch=1), encoded(picture())
    with pytest.raises(ValueError, match="cannot be read as an image"):
        image.prepare(File("a.jpg", stored=content[: len(content) // 2]))


def test_a_rotated_jpeg_is_turned_upright() -> None:
    """Its size in the file is not the size it is shown at."""
    turned = Pillow.Exif()
    turned[ORIENTATION] = 6
    content = encoded(picture().rotate(90, expand=True), exif=turned, quality=100, subsampling=0)
    found = uj.Image(*SIZE, 3, patch=1).read(File("a.jpg", stored=content))
    assert np.abs(found.astype(int) - np.asarray(picture()).astype(int)).mean() < 3
