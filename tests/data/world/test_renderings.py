"""Film, depth, sound, cloud and action: true renders are read back, also under noise; what they are by definition."""

import dataclasses

import numpy as np
import pytest

from unified_jax.data.world import World
from unified_jax.data.world.read import read_image, read_video
from unified_jax.data.world.read_action import read_action
from unified_jax.data.world.read_solid import read_depth, read_points
from unified_jax.data.world.read_sound import read_audio, read_clicks
from unified_jax.data.world.render import render_image
from unified_jax.data.world.scene import ATTRIBUTES, FRAMES, RADII, Object, Scene, bounces, trajectory
from unified_jax.data.world.sound import LEVELS, PITCHES, RATE, TIMBRES, click_times, render_audio

WORLD = World(seed=5, resolution=32)
VALUES = {name: len(values) for name, values in ATTRIBUTES}


def examples(count, fields, split="test", world=WORLD):
    source = world.source(split, fields)
    scenes = [source.scene(i) for i in range(count)]
    return scenes, {field: np.stack([source[i][field] for i in range(count)]) for field in fields}


def share_read(reading, scenes, names, objects=2):
    """Share of scenes of which every named attribute of every object is read."""
    right = reading.count == [min(len(scene.objects), objects) for scene in scenes]
    for name in names:
        for slot in range(objects):
            there = [getattr(s.objects[slot], name) if slot < len(s.objects) else VALUES[name] for s in scenes]
            right &= getattr(reading, name)[:, slot] == there
    return right.mean()


@pytest.mark.parametrize("part", [0.4, pytest.param(1.0, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    ("field", "reader", "names", "count", "noise", "least"),
    [
        ("video", read_video, ("shape", "colour", "size", "place", "motion"), 120, 0.1, 0.99),
        ("depth", read_depth, ("shape", "size", "place", "motion"), 120, 0.1, 0.99),
        ("audio", read_audio, ("shape", "colour", "size"), 1000, 0.02, 0.99),
        ("points", read_points, ("shape", "colour", "size", "place"), 250, 0.005, 0.97),
    ],
)
def test_true_renders_are_read(field, reader, names, count, noise, least, part):
    count = int(part * count)
    scenes, found = examples(count, (field,))
    clean = found[field]
    assert share_read(reader(clean), scenes, names) == 1.0
    model = clean.astype(np.float64) / 127.5 - 1 if clean.dtype == np.uint8 else clean
    rough = model + noise * np.random.default_rng(0).standard_normal(model.shape)
    assert share_read(reader(rough), scenes, names) >= least


def test_actions_are_read():
    scenes, found = examples(800, ("action",))
    firsts = [Scene(scene.objects[:1]) for scene in scenes]
    assert share_read(read_action(found["action"]), firsts, ("place", "motion"), 1) == 1.0
    rough = found["action"] + 0.01 * np.random.default_rng(0).standard_normal(found["action"].shape)
    assert share_read(read_action(rough), firsts, ("place", "motion"), 1) >= 0.95
    ends = np.stack([trajectory(scene.objects[0])[-1] for scene in scenes])
    np.testing.assert_allclose(found["action"][:, -1], ends, atol=1e-6)


def test_a_film_begins_as_its_picture_and_follows_the_path():
    scenes, found = examples(40, ("image", "video"))
    np.testing.assert_array_equal(found["video"][:, 0], found["image"])
    for scene, video in zip(scenes[:10], found["video"][:10], strict=True):
        for frame in (3, 7):
            moved = [
                dataclasses.replace(o, x=trajectory(o)[frame][0], y=trajectory(o)[frame][1]) for o in scene.objects
            ]
            np.testing.assert_array_equal(video[frame], render_image(Scene(tuple(moved)), 32))


def test_sound_is_what_it_says():
    still = Object(0, 3, 1, 4, 0, 0.5, 0.5, RADII[1])
    wave = render_audio(Scene((still,)))
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(RATE)))
    assert abs(spectrum.argmax() - PITCHES[3]) <= 1.0
    assert np.sqrt(np.mean(wave[1000:7000] ** 2)) == pytest.approx(LEVELS[1], rel=0.01)
    np.testing.assert_allclose((TIMBRES**2).sum(1), 1)
    moving = dataclasses.replace(still, motion=2, x=0.7)
    times = bounces(moving) / FRAMES
    assert len(times) > 0
    np.testing.assert_allclose(read_clicks(render_audio(Scene((moving,)))), times, atol=0.006)


def test_clicks_are_counted():
    scenes, found = examples(400, ("audio",))
    right = total = 0
    for scene, wave in zip(scenes, found["audio"], strict=True):
        times = click_times(scene)
        if len(times) > 1 and np.diff(times).min() < 0.012:
            continue  # heard as one
        heard = read_clicks(wave)
        total += 1
        right += len(heard) == len(times) and np.allclose(heard, times, atol=0.008)
    assert total > 350
    assert right == total


def test_points_lie_on_their_object():
    scenes, found = examples(50, ("points",))
    assert found["points"].shape == (50, 256, 6)
    assert found["points"].min() >= 0
    assert found["points"].max() <= 1
    for scene, cloud in zip(scenes, found["points"], strict=True):
        xy = np.stack([cloud[:, 0], 1 - cloud[:, 1]], 1)
        near = np.stack([np.hypot(*(xy - (o.x, o.y)).T) <= o.radius + 1e-6 for o in scene.objects])
        assert near.any(0).all()
        assert near.sum(1).tolist() == ([256] if len(scene.objects) == 1 else [128, 128])


def test_an_example_is_a_function_of_its_id():
    fields = ("video", "depth", "audio", "points", "action")
    a, b = WORLD.source("train", fields)[17], WORLD.source("train", (*fields, "image", "caption"))[17]
    for field in fields:
        np.testing.assert_array_equal(a[field], b[field])
    for field, (shape, dtype) in WORLD.features().items():
        if field in fields:
            assert (a[field].shape, str(a[field].dtype)) == (shape, dtype)


def test_bad_arrays_are_refused():
    with pytest.raises(ValueError, match="8000"):
        read_audio(np.zeros((2, 100)))
    with pytest.raises(ValueError, match="k >= 32"):
        read_points(np.zeros((2, 8, 6)))
    with pytest.raises(ValueError, match=r"\[b, 16, 2\]"):
        read_action(np.zeros((2, 8, 2)))
    with pytest.raises(ValueError, match="Depth"):
        read_depth(np.zeros((2, 8, 8, 3)))
    with pytest.raises(ValueError, match="1 to 16 frames"):
        World(frames=20)
    assert read_image(np.zeros((1, 32, 32, 3), np.uint8)).motion.tolist() == [[5, 5]]
    assert read_audio(np.zeros((1, 8000))).count.tolist() == [0]
