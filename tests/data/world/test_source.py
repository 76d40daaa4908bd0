"""The source: fields, lengths, purity, errors."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from unified_jax.data.world import World
from unified_jax.data.world.caption import read_caption
from unified_jax.data.world.source import FIELDS


def equal(a, b) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_lengths():
    world = World(examples=123)
    assert [len(world.source(split)) for split in ("train", "test", "held_out")] == [123, 10_000, 10_000]


def test_fields_have_the_announced_features():
    world = World(resolution=24)
    features = world.features()
    for id in range(20):
        example = world.source("train")[id]
        assert set(example) == set(features) == set(FIELDS)
        for name, (shape, dtype) in features.items():
            value = example[name]
            if dtype == "str":
                assert isinstance(value, str) and value
            else:
                assert isinstance(value, np.ndarray) and value.shape == shape and value.dtype == dtype


def test_fields_agree_with_the_scene():
    source = World().source("test")
    for id in range(100):
        example, scene = source[id], source.scene(id)
        first = scene.objects[0]
        assert example["id"] == id and example["count"] == len(scene.objects)
        assert example["label"] == first.shape * 8 + first.colour
        assert (example["place"], example["motion"]) == (first.place, first.motion)
        absent = (6, 8, 3, 9, 5)
        o = scene.objects[1] if len(scene.objects) == 2 else None
        expected = absent if o is None else (o.shape, o.colour, o.size, o.place, o.motion)
        assert tuple(int(example[f"{name}_2"]) for name in ("shape", "colour", "size", "place", "motion")) == expected
        assert len(read_caption(str(example["caption"]))) == len(scene.objects)


def test_only_the_asked_fields_and_the_same_values():
    whole, part = World().source("train"), World().source("train", ("caption", "label"))
    for id in range(20):
        assert list(part[id]) == ["caption", "label"]
        assert all(np.array_equal(part[id][name], whole[id][name]) for name in part[id])


def test_examples_are_pure_across_pickling_and_threads():
    source = World(seed=4).source("train")
    copy = pickle.loads(pickle.dumps(source))
    expected = [source[id] for id in range(64)]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(equal, pool.map(copy.__getitem__, range(64)), expected))
    assert all(equal(World(seed=4).source("train")[id], expected[id]) for id in reversed(range(64)))


def test_examples_are_the_same_in_another_process():
    # Python's own hash changes from process to process; nothing here may depend on it.
    code = (
        "from unified_jax.data.world import World; print([*World().source('train', ('caption', 'image'))[5].values()])"
    )
    here = World().source("train", ("caption", "image"))[5]
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.strip() == str([*here.values()])


def test_importing_the_world_does_not_import_jax():
    code = "import sys, unified_jax.data.world; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_splits_and_seeds_differ():
    a, b, c = World().source("train")[3], World().source("test")[3], World(seed=1).source("train")[3]
    assert not equal(a, b) and not equal(a, c)


def test_indices_of_numpy_are_taken():
    source = World(max_objects=1, jitter=False).source("held_out", ("count",))
    assert source[np.int64(9_999)]["count"] == 1


@pytest.mark.parametrize("index", [-1, 10_000])
def test_an_index_outside_is_an_error(index):
    with pytest.raises(IndexError, match=f"10000 examples in the split 'test'; found the index {index}"):
        World().source("test")[index]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed of 'world' must be in .*; found -1"),
        ({"resolution": 8}, "resolution of 'world' must be at least 16; found 8"),
        ({"examples": 0}, "at least one training example; found 0"),
    ],
)
def test_bad_values_are_errors(change, message):
    with pytest.raises(ValueError, match=message):
        World(**change)


def test_a_third_object_is_an_error():
    # A TypeError where annotations are checked at run time, which comes first.
    with pytest.raises((ValueError, TypeError), match="max_objects"):
        World(max_objects=3)  # pyright: ignore[reportArgumentType]


def test_unknown_split_and_field_are_named():
    with pytest.raises(ValueError, match="'mine' has no split 'valid'; expected one of train, test, held_out"):
        World(name="mine").source("valid")
    with pytest.raises(ValueError, match="'world' has no field 'smell'; expected some of id, image, video"):
        World().source("train", ("image", "smell"))


def test_the_config_is_frozen():
    with pytest.raises(FrozenInstanceError):
        World().seed = 1  # pyright: ignore[reportAttributeAccessIssue]
