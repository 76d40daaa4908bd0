"""Pictures: colours, edges, resolutions."""

import numpy as np
import pytest

from unified_jax.data.world.render import coverage, render_image, render_mask
from unified_jax.data.world.scene import BACKGROUND_RGB, COLOUR_RGB, RADII, SHAPES, Object, Scene, sample_scene
from unified_jax.data.world.source import World


def alone(shape, colour=0, size=2, x=0.5, y=0.5):
    return Scene((Object(shape, colour, size, 4, 0, x, y, RADII[size]),))


def test_rendering_is_pure_and_of_the_asked_shape():
    scene = sample_scene(0, "train", 1)
    for resolution in (16, 31, 32, 64, 100):
        image = render_image(scene, resolution)
        assert image.shape == (resolution, resolution, 3) and image.dtype == np.uint8
        np.testing.assert_array_equal(image, render_image(scene, resolution))


def test_too_low_a_resolution_is_an_error():
    with pytest.raises(ValueError, match="at least 16; found 8"):
        render_image(sample_scene(0, "train", 1), 8)


@pytest.mark.parametrize("colour", range(8))
def test_inside_is_the_colour_and_outside_the_background(colour):
    image = render_image(alone(0, colour), 64)
    np.testing.assert_array_equal(image[32, 32], COLOUR_RGB[colour])
    np.testing.assert_array_equal(image[0, 0], BACKGROUND_RGB)


def test_colours_are_well_apart():
    colours = np.concatenate([COLOUR_RGB, BACKGROUND_RGB[None]]).astype(float)
    distance = np.linalg.norm(colours[:, None] - colours, axis=-1) + 1e3 * np.eye(9)
    assert distance[:8, :8].min() > 100 and distance[8].min() > 185


AREAS = (
    np.pi * 0.88**2,
    4 * 0.7**2,
    3 * np.sqrt(3) / 4,
    2 * 0.66,
    5 * 0.5 * np.sin(np.pi / 5),
    np.pi * (0.95**2 - 0.5**2),
)


@pytest.mark.parametrize("shape", range(6), ids=SHAPES)
def test_coverage_adds_up_to_the_area(shape):
    for radius, tolerance in ((20.0, 0.02), (5.0, 0.06), (3.2, 0.1)):
        cover = coverage(shape, 32.3, 31.6, radius, (0, 64), (0, 64))
        assert cover.min() >= 0 and cover.max() <= 1
        assert abs(cover.sum() / (AREAS[shape] * radius**2) - 1) < tolerance


@pytest.mark.parametrize("shape", range(6), ids=SHAPES)
def test_shapes_lie_in_their_disc(shape):
    cover = coverage(shape, 32.0, 32.0, 20.0, (0, 64), (0, 64))
    rows, columns = np.mgrid[0:64, 0:64] + 0.5 - 32.0
    assert cover[np.hypot(rows, columns) > 21.5].max() == 0


@pytest.mark.parametrize("shape", range(6), ids=SHAPES)
def test_a_window_shows_the_same_as_the_whole(shape):
    whole = coverage(shape, 20.2, 17.7, 6.0, (0, 40), (0, 40))
    np.testing.assert_allclose(coverage(shape, 20.2, 17.7, 6.0, (9, 27), (12, 29)), whole[9:27, 12:29], atol=1e-4)


@pytest.mark.parametrize("shape", range(6), ids=SHAPES)
def test_a_finer_picture_averages_to_the_coarser(shape):
    fine = render_image(alone(shape, 7, 1, 0.47, 0.52), 128).astype(float)
    coarse = render_image(alone(shape, 7, 1, 0.47, 0.52), 32).astype(float)
    # Of 221 levels of contrast, at the pixels of sharp corners.
    assert np.abs(fine.reshape(32, 4, 32, 4, 3).mean((1, 3)) - coarse).max() < 30


def test_two_objects_do_not_erase_one_another():
    # Diagonal neighbours: the discs are apart, but their bounding windows share pixels.
    a, b = Object(1, 0, 2, 0, 0, 0.29, 0.29, 0.16), Object(1, 5, 2, 4, 0, 0.57, 0.57, 0.16)
    both = render_image(Scene((a, b)), 32).astype(int)
    for one in (a, b):
        single = render_image(Scene((one,)), 32)
        inside = np.any(single != BACKGROUND_RGB, axis=-1)
        np.testing.assert_array_equal(both[inside], single[inside])


def test_the_mask_is_the_share_of_each_pixel_whatever_the_colours():
    scene = next(s for s in (sample_scene(0, "train", i) for i in range(99)) if len(s.objects) == 2)
    other = Scene(tuple(Object(o.shape, 7 - o.colour, o.size, o.place, 0, o.x, o.y, o.radius) for o in scene.objects))
    mask = render_mask(scene, 32)
    np.testing.assert_array_equal(mask, render_mask(other, 32))
    each = [render_mask(Scene((o,)), 32).astype(int) for o in scene.objects]
    np.testing.assert_array_equal(mask, np.maximum(*each))
    one = alone(5, 2)  # a ring: its picture is background + share (colour - background)
    reach = COLOUR_RGB[2].astype(float) - BACKGROUND_RGB
    channel = int(np.abs(reach).argmax())
    share = (render_image(one, 32)[..., channel] - float(BACKGROUND_RGB[channel])) / reach[channel]
    np.testing.assert_allclose(render_mask(one, 32)[..., 0] / 255, share, atol=0.6 / abs(reach[channel]) + 0.5 / 255)
    source = World().source("test", ("mask",))
    np.testing.assert_array_equal(source[3]["mask"], render_mask(source.scene(3), 32))
