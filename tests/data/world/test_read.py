"""The reader of pictures: accuracy on true renders, with noise, at other resolutions; and garbage."""

import numpy as np
import pytest

from unified_jax.data.world.read import Reading, read_image
from unified_jax.data.world.render import render_image
from unified_jax.data.world.scene import Object, Scene, sample_scene


def accuracy(n: int, resolution: int, sigma: float, split: str = "train", jitter: bool = True) -> tuple[float, float]:
    """The shares of scenes read wholly right, and of centres within half a pixel."""
    scenes = [sample_scene(17, split, id, 2, jitter) for id in range(n)]
    images = np.stack([render_image(scene, resolution) for scene in scenes])
    if sigma:
        noise = np.random.default_rng(0).standard_normal(images.shape, dtype=np.float32)
        images = images.astype(np.float32) / 127.5 - 1 + np.float32(sigma) * noise
    reading = read_image(images)
    right = [shown(reading, k) == described(scene) for k, scene in enumerate(scenes)]
    # Both are sorted by place, so the objects correspond where the attributes do.
    near = [
        np.abs(reading.centre[k, slot] - (o.x, o.y)).max() * resolution < 0.5
        for k, scene in enumerate(scenes)
        for slot, o in enumerate(scene.objects)
    ]
    return float(np.mean(right)), float(np.mean(near))


def described(scene: Scene) -> list[tuple[int, ...]]:
    return [(o.shape, o.colour, o.size, o.place) for o in scene.objects]


def shown(reading: Reading, k: int) -> list[tuple[int, ...]]:
    columns = (reading.shape[k], reading.colour[k], reading.size[k], reading.place[k])
    return [tuple(int(column[slot]) for column in columns) for slot in range(reading.count[k])]


SCENES = pytest.mark.parametrize("scenes", [500, pytest.param(2000, marks=pytest.mark.nightly)])


@SCENES
def test_true_renders_at_32_pixels(scenes):
    right, near = accuracy(scenes, 32, 0.0)
    assert right >= 0.999 and near >= 0.999


@SCENES
def test_noise_at_32_pixels(scenes):
    right, near = accuracy(scenes, 32, 0.1)
    assert right >= 0.99 and near >= 0.99


@pytest.mark.parametrize(("sigma", "least"), [(0.0, 0.999), (0.1, 0.99)])
def test_64_pixels(sigma, least):
    right, near = accuracy(150, 64, sigma)
    assert right >= least and near >= least


@pytest.mark.parametrize("resolution", [16, 24, 40, 96])
def test_other_resolutions(resolution):
    assert accuracy(60, resolution, 0.0)[0] >= 0.98


def test_held_out_and_unjittered():
    assert accuracy(150, 32, 0.1, "held_out", False)[0] >= 0.99


def test_uint8_and_float_read_the_same():
    images = np.stack([render_image(sample_scene(2, "train", id), 32) for id in range(20)])
    a, b = read_image(images), read_image(images.astype(np.float32) / np.float32(127.5) - 1)
    for x, y in ((a.count, b.count), (a.shape, b.shape), (a.place, b.place), (a.colour, b.colour), (a.size, b.size)):
        np.testing.assert_array_equal(x, y)


def test_the_batch_does_not_matter():
    images = np.stack([render_image(sample_scene(2, "train", id), 32) for id in range(11)])
    together, single = read_image(images), [read_image(images[k : k + 1]) for k in range(11)]
    np.testing.assert_array_equal(together.place, np.concatenate([r.place for r in single]))
    np.testing.assert_array_equal(together.centre, np.concatenate([r.centre for r in single]))


def test_an_empty_picture_has_no_objects():
    reading = read_image(np.full((3, 32, 32, 3), 24, np.uint8))
    assert reading.count.tolist() == [0, 0, 0]
    assert reading.shape.tolist() == [[6, 6]] * 3 and reading.colour.tolist() == [[8, 8]] * 3
    assert reading.size.tolist() == [[3, 3]] * 3 and reading.place.tolist() == [[9, 9]] * 3
    assert (reading.centre == -1).all() and (reading.fit == 0).all()


def test_three_objects_are_more_than_two():
    objects = tuple(Object(k, k, 1, 4 * k, 0, 0.2 + 0.3 * k, 0.2 + 0.3 * k, 0.128) for k in range(3))
    assert read_image(render_image(Scene(objects), 32)[None]).count.tolist() == [3]


def test_objects_are_sorted_by_place():
    objects = (Object(0, 0, 2, 8, 0, 0.8, 0.8, 0.16), Object(5, 7, 0, 0, 0, 0.2, 0.2, 0.1))
    reading = read_image(render_image(Scene(objects), 32)[None])
    assert reading.place.tolist() == [[0, 8]] and reading.colour.tolist() == [[7, 0]]


def garbage() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (4, 32, 32, 3)
    mixed = rng.standard_normal(shape)
    mixed[:, ::3], mixed[:, 1::3] = np.nan, np.inf
    return {
        "noise": rng.standard_normal(shape),
        "bytes": rng.integers(0, 256, shape, dtype=np.uint8),
        "undefined": np.full(shape, np.nan),
        "infinite": np.full(shape, -np.inf),
        "mixed": mixed,
        "huge": 1e30 * rng.standard_normal(shape),
        "white": np.ones(shape, np.float32),
        "half": rng.standard_normal(shape).astype(np.float16),
        "empty": np.zeros((0, 32, 32, 3), np.uint8),
    }


@pytest.mark.parametrize("name", garbage())
def test_garbage_is_read_without_error(name):
    images = garbage()[name]
    first, second = read_image(images), read_image(images)
    assert first.count.shape == (len(images),) and first.centre.shape == (len(images), 2, 2)
    for a, b in ((first.centre, second.centre), (first.fit, second.fit), (first.residual, second.residual)):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)
    assert (first.shape <= 6).all() and (first.place <= 9).all() and ((first.fit >= 0) & (first.fit <= 1)).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((32, 32, 3), np.uint8), r"shape \[b, r, r, 3\]; found \[32, 32, 3\]"),
        (np.zeros((1, 32, 16, 3), np.uint8), "shape"),
        (np.zeros((1, 8, 8, 3), np.uint8), "at least 16 rows; found 8"),
        (np.zeros((1, 32, 32, 3), np.int32), "uint8 or float .* found int32"),
    ],
)
def test_errors_are_sentences(images, message):
    with pytest.raises(ValueError, match=message):
        read_image(images)
