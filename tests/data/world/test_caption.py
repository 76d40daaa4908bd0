"""Captions: the round trip, what people type, and the sentences on errors."""

import itertools

import numpy as np
import pytest

from unified_jax.data.world.caption import NAMES, read_caption, write_caption
from unified_jax.data.world.scene import ATTRIBUTES, Object, Scene, sample_scene


def agrees(object: Object, named: dict[str, int]) -> bool:
    own = {"shape": object.shape, "colour": object.colour, "size": object.size}
    own |= {"place": object.place, "motion": object.motion}
    return all(own[name] == value for name, value in named.items())


def matches(scene: Scene, read: tuple[dict[str, int], ...]) -> bool:
    """Every object is described by a part of its own."""
    orders = itertools.permutations(scene.objects)
    return any(len(order) == len(read) and all(map(agrees, order, read)) for order in orders)


def test_round_trip_over_thousands():
    counts = []
    for id in range(2000):
        scene = sample_scene(0, "train", id)
        read = read_caption(write_caption(scene, id))
        assert matches(scene, read), (scene, read)
        counts += [len(named) for named in read]
    assert min(counts) == 1 and max(counts) == 5 and 0.4 < np.mean(np.array(counts) == 5) < 0.7


def test_exactly_the_asked_attributes_are_named():
    subsets = [s for n in range(6) for s in itertools.combinations(NAMES, n)]
    for id, subset in enumerate(subsets * 20):
        scene = sample_scene(1, "train", id)
        read = read_caption(write_caption(scene, id, subset))
        assert all(set(named) == set(subset) for named in read) and matches(scene, read)


def test_every_value_survives():
    for position, (name, values) in enumerate(ATTRIBUTES):
        for value, seed in itertools.product(range(len(values)), range(20)):
            shape, colour, size, place, motion = (value if n == position else 0 for n in range(5))
            scene = Scene((Object(shape, colour, size, place, motion, 0.5, 0.5, 0.1),))
            assert read_caption(write_caption(scene, seed, (name,))) == ({name: value},)


def test_captions_are_pure_and_varied():
    scene = sample_scene(0, "train", 3)
    assert write_caption(scene, 5) == write_caption(scene, np.random.default_rng(5)) == write_caption(scene, 5)
    assert len({write_caption(scene, seed, NAMES) for seed in range(50)}) > 20


RED, BLUE, STAR = {"colour": 0}, {"colour": 5}, {"shape": 4}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a small red circle", [{"size": 0, "colour": 0, "shape": 0}]),
        ("  SMALL,   Red circle!", [{"size": 0, "colour": 0, "shape": 0}]),
        ("big star in the center", [{"size": 2, "shape": 4, "place": 4}]),
        ("a tiny blue colored ring in the upper-left corner", [{"size": 0, "colour": 5, "shape": 5, "place": 0}]),
        ("a star at the left moving right", [STAR | {"place": 3, "motion": 2}]),
        ("a star moving to the left on the right", [STAR | {"place": 5, "motion": 1}]),
        ("a star moving left at the top right", [STAR | {"place": 2, "motion": 1}]),
        ("a star that is not moving", [STAR | {"motion": 0}]),
        ("a star drifting downwards at the bottom", [STAR | {"place": 7, "motion": 4}]),
        ("red object; blue thing", [RED, BLUE]),
        ("There are two objects: a red one and a blue one", [RED, BLUE]),
        ("an object", [{}]),
        ("top centre", [{"place": 1}]),
    ],
)
def test_what_people_type(text, expected):
    assert list(read_caption(text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a crimson circle", "'crimson' is not understood; sizes are small, medium, .*colours are red, .*motions are"),
        ("a red blue circle", "two colours: red and blue"),
        ("a circle moving left staying still", "two motions: left and still"),
        ("a circle at the top left at the bottom", "two places"),
        ("", "describes no object"),
        ("a ring and a star and a disc", "3 object.*one object or two"),
        ("two objects: a ring", "two objects are announced"),
        ("a ring and the", "nothing to say"),
    ],
)
def test_errors_are_sentences(text, message):
    with pytest.raises(ValueError, match=message):
        read_caption(text)


def test_unknown_attribute_is_named():
    with pytest.raises(ValueError, match="cannot name 'texture'; expected some of shape, colour"):
        write_caption(sample_scene(0, "train", 0), 0, ("texture",))
