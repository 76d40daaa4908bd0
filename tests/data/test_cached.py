"""Features in a folder: read record by record beside the data set, and refused where they are not of it."""

import dataclasses
import json

import numpy as np
import pytest

from unified_jax.config import config_hash, from_plain, to_plain
from unified_jax.data.base import DataSet
from unified_jax.data.cached import CachedFeatures, counts, described, part_folder
from unified_jax.data.mixture import Mixture, Part
from unified_jax.data.pipeline import Pipeline
from unified_jax.data.world import World
from unified_jax.errors import RunError, UserError
from unified_jax.modalities.features import Features
from unified_jax.modalities.text import Text
from unified_jax.runs.resume import differences
from unified_jax.runs.shards import write_shard

WORLD = World(resolution=16, max_objects=1, examples=7)
TOKENS, LENGTH = "caption.text.tokens", "caption.text.length"
FORMS = (Features(TOKENS, (3, 2)), Features(LENGTH, (), "int32"))
SHARD = 3


def value_of(part, index):
    """What a folder holds of a record."""
    return np.full((3, 2), 100 * part + index, np.float32)


def written(folder, data=WORLD, limit=0):
    """A folder of features of the training split."""
    parts = data.parts("train", ("caption",))
    entries = counts(parts, limit)
    for part, entry in enumerate(entries):
        for shard, start in enumerate(range(0, entry["count"], SHARD)):
            rows = range(start, min(start + SHARD, entry["count"]))
            arrays = {TOKENS: np.stack([value_of(part, i) for i in rows]), LENGTH: np.asarray(rows, np.int32)}
            write_shard(folder, part_folder(folder, "train", part) / f"{shard:06d}", arrays)
    record = {
        "set": {"name": data.name, "configuration": described(data)},
        "splits": {"train": entries},
        "sources": {"caption": described(Text(16))},
        "stages": {},
        "fields": {one.name: {"shape": list(one.shape), "dtype": one.dtype} for one in FORMS},
        "rows": 2,
        "shard": SHARD,
    }
    (folder / "cache.json").write_text(json.dumps(record))
    return CachedFeatures(data, str(folder))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "features"
    path.mkdir()
    return path


def test_a_record_has_the_features_of_its_index_in_every_part(folder):
    data = Mixture((Part(WORLD, 2.0), Part(dataclasses.replace(WORLD, seed=1, examples=4))))
    cached = written(folder, data)
    assert isinstance(cached, DataSet) and cached.name == data.name
    fields = ("caption", TOKENS, LENGTH)
    for part, ((weight, name, source), (w, n, plain)) in enumerate(
        zip(cached.parts("train", fields), data.parts("train", ("caption",)), strict=True)
    ):
        assert (weight, name, len(source)) == (w, n, len(plain))
        for i in range(len(plain)):
            record = source[i]
            assert record["caption"] == plain[i]["caption"] and record[LENGTH] == i
            np.testing.assert_array_equal(record[TOKENS], value_of(part, i))
        with pytest.raises(IndexError):
            source[len(plain)]


def test_a_batch_is_that_of_the_data_set_with_features(folder):
    modalities = (Text(128), *FORMS)
    batch = Pipeline(written(folder), "train", modalities, 5, seed=3).batch(1)
    plain = Pipeline(WORLD, "train", modalities[:1], 5, seed=3).batch(1)
    np.testing.assert_array_equal(batch.ids, plain.ids)
    np.testing.assert_array_equal(batch.arrays["caption"], plain.arrays["caption"])
    np.testing.assert_array_equal(batch.arrays[LENGTH], batch.ids)


def test_the_first_records_alone_may_be_encoded(folder):
    ((_, _, source),) = written(folder, limit=5).parts("train", (TOKENS,))
    assert len(source) == 5 and source[4][TOKENS][0, 0] == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dataclasses.replace(WORLD, seed=1), r"of another data set: seed \(default there, 1 here\)"),
        (dataclasses.replace(WORLD, examples=8), r"examples \(7 there, 8 here\)"),
        (Mixture((Part(WORLD),)), r"world.source.World there, data.mixture.Mixture here"),
    ],
)
def test_another_data_set_is_refused(folder, data, message):
    written(folder)
    with pytest.raises(UserError, match=message):
        CachedFeatures(data, str(folder)).parts("train", (TOKENS,))


def test_other_records_of_the_same_configuration_are_refused(folder):
    cached = written(folder)
    path = folder / "cache.json"
    record = json.loads(path.read_text())
    for change, message in (
        ({"records": 9}, r"are of 9 records of world; the data set has 7 records"),
        ({"first": 1}, r"are of other records of world: the first one differs"),
    ):
        entry = record["splits"]["train"][0] | change
        path.write_text(json.dumps(record | {"splits": {"train": [entry]}}))
        with pytest.raises(UserError, match=message):
            cached.parts("train", (TOKENS,))


def test_what_is_missing_or_damaged_is_named(folder, tmp_path):
    cached = written(folder)
    with pytest.raises(UserError, match=r"holds features of the splits train, not of 'test'.*--splits test"):
        cached.parts("test", (TOKENS,))
    with pytest.raises(UserError, match=r"lack caption.text.pooled; they are caption.text.tokens, caption.text.length"):
        cached.parts("train", ("caption.text.pooled",))
    with pytest.raises(UserError, match=r"are not there: write them with unified-jax data encode"):
        CachedFeatures(WORLD, str(tmp_path / "none")).parts("train", (TOKENS,))
    file = folder / "train-0/000001/features" / f"{TOKENS}.npy"
    whole = file.read_bytes()
    file.write_bytes(b"nonsense" + whole[8:])
    ((_, _, source),) = cached.parts("train", (TOKENS,))
    with pytest.raises(RunError, match=r"000001/features/caption.text.tokens.npy' cannot be read"):
        source[4]
    assert source[0][TOKENS][0, 0] == 0  # other shards are read all the same
    file.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(UserError, match=r"000001/features/caption.text.tokens.npy': the file is cut off"):
        cached.parts("train", (TOKENS,))
    (folder / "cache.json").rename(folder / "encoding.json")
    with pytest.raises(UserError, match=r"are not finished: the same command goes on"):
        cached.parts("train", (TOKENS,))


def test_a_moved_folder_is_the_same_data_set_on_resume(folder):
    cached = written(folder)
    moved = dataclasses.replace(cached, folder="elsewhere")
    assert differences(moved, to_plain(cached)) == []
    there = dataclasses.replace(moved, data=dataclasses.replace(WORLD, cache="scenes"))
    assert differences(there, to_plain(cached)) == []  # nor does it matter where the world's scenes lie
    assert described(there.data) == described(WORLD)
    assert differences(dataclasses.replace(cached, data=dataclasses.replace(WORLD, seed=1)), to_plain(cached))
    assert from_plain(to_plain(cached)) == cached and config_hash(cached) != config_hash(moved)
    with pytest.raises(ValueError, match=r"one encoding of each record, found copies=2"):
        dataclasses.replace(cached, copies=2)


def test_features_take_exactly_their_shape_and_dtype():
    array = np.ones((3, 2), np.float32)
    assert FORMS[0].prepare(array) is array
    for wrong in (array[:2], array.astype(np.float64), array.astype(np.int32)):
        with pytest.raises(ValueError, match=r"expected float32 \[3, 2\], found .*unified-jax data encode"):
            FORMS[0].prepare(wrong)
    with pytest.raises(ValueError, match=r"'float33' is no dtype"):
        Features("a", (), "float33")
