"""Scenes: purity, splits, frequencies, walls, bounces, distance."""

import itertools
from collections import Counter

import numpy as np
import pytest

from unified_jax.data.world import scene as world
from unified_jax.data.world.scene import FRAMES, GAP, MOTIONS, SIZES, Object, bounces, sample_scene, trajectory

SCENES = [sample_scene(0, "train", id) for id in range(2000)]


def test_a_scene_is_a_pure_function_of_seed_split_and_id():
    assert [sample_scene(0, "train", id) for id in range(50)] == SCENES[:50]
    assert sample_scene(0, "train", 7) == SCENES[7]
    others = [sample_scene(1, "train", 7), sample_scene(0, "test", 7), sample_scene(0, "train", 8)]
    assert SCENES[7] not in others


def test_the_known_first_scene_has_not_changed():
    # A change here changes every data set ever drawn: it must be deliberate.
    first = SCENES[0].objects[0]
    assert (first.shape, first.colour, first.size, first.place, first.motion) == (0, 5, 1, 0, 2)
    np.testing.assert_allclose((first.x, first.y), (0.2497344, 0.2904843), atol=1e-6)


def test_a_tenth_is_held_out_and_evenly():
    combinations = list(itertools.product(range(6), range(8), range(3)))
    kept = [c for c in combinations if world.held_out(*c)]
    assert 0.08 <= len(kept) / len(combinations) <= 0.12
    assert all({c[axis] for c in kept} == set(range(n)) for axis, n in enumerate((6, 8, 3)))


@pytest.mark.parametrize("split", ["train", "test", "held_out"])
def test_splits_hold_their_combinations_only(split):
    for id in range(500):
        for object in sample_scene(3, split, id).objects:
            assert world.held_out(object.shape, object.colour, object.size) == (split == "held_out")


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="no split 'valid'; expected one of train, test, held_out"):
        sample_scene(0, "valid", 0)


@pytest.mark.parametrize("max_objects", [1, 2])
def test_values_are_equally_likely(max_objects):
    objects = [o for id in range(4000) for o in sample_scene(5, "train", id, max_objects).objects]
    axes: list[tuple[list[int], int]] = [([o.motion for o in objects], 5), ([o.size for o in objects], 3)]
    axes += [([o.shape for o in objects], 6), ([o.colour for o in objects], 8)]
    if max_objects == 1:
        axes.append(([o.place for o in objects], 9))
    for values, n in axes:
        counts = Counter(values)
        # Five standard deviations, and the little unevenness that holding out leaves.
        slack = 5 * np.sqrt(len(objects) / n) + 0.02 * len(objects) / n
        assert len(counts) == n and all(abs(c - len(objects) / n) < slack for c in counts.values())


def test_one_and_two_objects_are_equally_likely():
    assert abs(np.mean([len(scene.objects) for scene in SCENES]) - 1.5) < 0.06
    assert all(len(sample_scene(0, "train", id, 1).objects) == 1 for id in range(200))


@pytest.mark.parametrize("jitter", [True, False])
def test_two_objects_keep_their_distance_in_all_frames(jitter):
    for id in range(1000):
        objects = sample_scene(11, "train", id, 2, jitter).objects
        if len(objects) == 2:
            a, b = objects
            assert a.place < b.place
            distance = np.linalg.norm(trajectory(a) - trajectory(b), axis=1)
            assert distance.shape == (FRAMES,) and distance.min() >= a.radius + b.radius + GAP - 1e-9


def test_the_fallback_serves_every_pair():
    for sizes in itertools.product(range(len(SIZES)), repeat=2):
        for motions in itertools.product(range(len(MOTIONS)), repeat=2):
            places = world.fallback_pair(sizes, motions)
            a, b = (
                Object(0, 0, s, p, m, world.GRID[p % 3], world.GRID[p // 3], world.RADII[s])
                for s, p, m in zip(sizes, places, motions, strict=True)
            )
            distance = np.linalg.norm(trajectory(a) - trajectory(b), axis=1)
            assert places[0] != places[1] and distance.min() >= a.radius + b.radius + GAP - 1e-9


def test_the_fallback_is_used_when_every_try_fails(monkeypatch):
    monkeypatch.setattr(world, "_BATCHES_OF_TRIES", 0)
    scene = next(s for s in (sample_scene(0, "train", id) for id in range(20)) if len(s.objects) == 2)
    assert {o.x for o in scene.objects} | {o.y for o in scene.objects} <= set(world.GRID)


def test_objects_stay_inside_and_in_their_cell():
    for scene in SCENES:
        for o in scene.objects:
            path = trajectory(o)
            assert path.min() >= o.radius - 1e-9 and path.max() <= 1 - o.radius + 1e-9
            np.testing.assert_allclose(path[0], (o.x, o.y), atol=1e-12)
            assert world.place_of(o.x, o.y) == o.place


def test_without_jitter_centres_are_cell_centres():
    for id in range(100):
        for o in sample_scene(0, "train", id, 1, False).objects:
            assert (o.x, o.y) == (world.GRID[o.place % 3], world.GRID[o.place // 3])


def test_the_first_step_shows_the_motion():
    for scene in SCENES:
        for o in scene.objects:
            step = np.diff(trajectory(o)[:2], axis=0)[0] / world.SPEED
            np.testing.assert_allclose(step, world.VELOCITIES[o.motion], atol=1e-9)


def test_bounces_are_where_the_path_turns():
    seen = 0
    for scene in SCENES[:500]:
        for o in scene.objects:
            times, path = bounces(o), trajectory(o)
            axis = 0 if MOTIONS[o.motion] in ("left", "right") else 1
            sign = np.sign(np.diff(path[:, axis])) if o.motion else np.zeros(FRAMES - 1)
            # Between two bounces the direction is constant, and a bounce reverses it.
            whole = [t for t in range(FRAMES - 1) if not any(t < b < t + 1 for b in times)]
            expected = np.array([(-1) ** int((times <= t).sum()) for t in whole])
            if o.motion:
                direction = sum(world.VELOCITIES[o.motion])
                np.testing.assert_array_equal(sign[whole], direction * expected)
            else:
                assert times.size == 0
            seen += times.size
    assert seen > 300


def test_a_bounce_is_at_the_wall():
    o = Object(0, 0, 0, 3, 1, 0.3, 0.5, 0.1)
    np.testing.assert_allclose(bounces(o), [5.0])
    np.testing.assert_allclose(bounces(o, 40), [5.0, 25.0])
    np.testing.assert_allclose(trajectory(o)[5], (0.1, 0.5))
