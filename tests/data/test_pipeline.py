"""The batch of a step is a function of (seed, step), whoever asks and from wherever."""

import zlib
from dataclasses import dataclass

import numpy as np
import pytest

from unified_jax.data.mixture import Mixture, Part
from unified_jax.data.pipeline import PART_BITS, Pipeline
from unified_jax.data.world import World
from unified_jax.errors import UserError
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label

MODALITIES = (Image(16, 16, 3, 4), Label("shape", 6))
WORLD = World(resolution=16, max_objects=1, examples=50)


def pipeline(data=WORLD, batch=8, seed=0, rows=None, modalities=MODALITIES, split="train"):
    return Pipeline(data, split, modalities, batch, seed, rows)


def test_a_step_is_pure_and_resumes_anywhere():
    one, other = pipeline(), pipeline()
    stream = one.batches(0)
    from_zero = [next(stream) for _ in range(9)]
    resumed = other.batches(6)
    for batch in from_zero[6:]:
        again = next(resumed)
        np.testing.assert_array_equal(batch.ids, again.ids)
        np.testing.assert_array_equal(batch.arrays["image"], again.arrays["image"])
        assert batch.examples == again.examples


def test_epochs_are_permutations_shuffled_anew():
    ids = np.concatenate([pipeline(batch=10).batch(step).ids for step in range(10)])
    first, second = ids[:50], ids[50:]
    assert sorted(first) == list(range(50))
    assert sorted(second) == list(range(50))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.concatenate([pipeline(batch=10, seed=1).batch(s).ids for s in range(5)]))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_cut_the_same_batch(count):
    whole = pipeline().batch(3)
    cuts = [pipeline(rows=rows).batch(3) for rows in np.arange(8, dtype=np.int32).reshape(count, -1)]
    for name in ("image", "shape", "slot"):
        np.testing.assert_array_equal(np.concatenate([c.arrays[name] for c in cuts]), whole.arrays[name])
    assert all(c.examples == whole.examples for c in cuts)


def test_slots_positions_and_checksum():
    batch = pipeline(batch=8).batch(5)
    assert batch.arrays["slot"].tolist() == list(range(8))
    assert batch.examples == [40, 47, zlib.crc32(batch.ids.astype("<i8").tobytes())]
    assert batch.arrays["image"].dtype == np.uint8
    np.testing.assert_array_equal(batch.arrays["image"][2], WORLD.source("train")[int(batch.ids[2])]["image"])


def test_mixtures_keep_their_weights_and_name_their_parts():
    mixture = Mixture((Part(WORLD, 3.0), Part(World(seed=5, resolution=16, max_objects=1, examples=7), 1.0)))
    ids = np.concatenate([pipeline(mixture, 20).batch(step).ids for step in range(20)])
    assert ((ids >> PART_BITS) == 1).mean() == pytest.approx(0.25, abs=0.01)
    assert set((ids[(ids >> PART_BITS) == 1] & 0xFFFF).tolist()) == set(range(7))
    with pytest.raises(ValueError, match="positive"):
        Part(WORLD, 0.0)


@dataclass(frozen=True)
class Broken:
    """A set whose records are wrong in one way."""

    value: object
    name: str = "broken"

    def parts(self, split, fields):
        return ((1.0, self.name, [{"image": self.value, "shape": 1}] * 9),)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((16, 16, 1), np.uint8), r"field 'image': expected uint8 \[16, 16, 3\], found uint8 \[16, 16, 1\]"),
        (np.zeros((16, 16, 3), np.float32), "field .*found float32"),
    ],
)
def test_wrong_records_name_set_field_found_and_expected(value, words):
    with pytest.raises(UserError, match="Data set 'broken', record 0, " + words):
        pipeline(Broken(value))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "validation"}, "'world' has no split 'validation'"),
        ({"modalities": (Label("texture", 3),)}, "no field 'texture'"),
        ({"modalities": (Image(32, 32, 3, 4),)}, r"found uint8 \[16, 16, 3\]"),
        ({"modalities": (Label("shape", 2),)}, r"expected an integer in 0 .. 1"),
        ({"batch": 0}, "does not fill rows"),
    ],
)
def test_bad_requests_are_sentences(arguments, words):
    with pytest.raises(UserError, match=words):
        p = pipeline(**arguments)
        for step in range(6):  # a label that is out of range shows in the first batches
            p.batch(step)


@dataclass(frozen=True)
class Rotten:
    """A source with one record that cannot be read."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        if index == 33:
            raise UserError("Data set 'rotten': record 33 cannot be read (torn).")
        return {"shape": 1}


@dataclass(frozen=True)
class RottenSet:
    """The data set of it."""

    name: str = "rotten"

    def parts(self, split, fields):
        return ((1.0, self.name, Rotten()),)


def test_a_bad_record_met_in_the_background_still_names_itself():
    stream = pipeline(RottenSet(), modalities=(Label("shape", 6),)).batches(0)
    with pytest.raises(UserError, match="record 33 cannot be read"):
        for _ in range(5):
            next(stream)


@dataclass(frozen=True)
class Own:
    """A user's own data set: what it answers."""

    answer: object
    name: str = "mine"

    def parts(self, split, fields):
        return self.answer


SOURCE = WORLD.source("train", ("image", "shape"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (SOURCE, r"'mine': Own.parts gave .*WorldSource.*; expected a tuple"),
        ((SOURCE,), r"'mine': Own.parts gave .*; expected a tuple"),
        (((0.0, "one", SOURCE),), r"gave \(0.0, 'one'"),
        (((1.0, "one", iter(())),), r"the source of 'one' is .*len\(\)"),
        ((), r"gave \(\)"),
    ],
)
def test_parts_of_another_form_are_told(answer, words):
    with pytest.raises(UserError, match=words):
        pipeline(Own(answer))


def test_own_parts_are_taken():
    mine, house = pipeline(Own([(np.float32(1), "world", SOURCE)])).batch(3), pipeline().batch(3)
    np.testing.assert_array_equal(mine.arrays["image"], house.arrays["image"])
