"""Weights in several files: all parts, once, as the index says; whatever is missing or extra is named."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from unified_jax.errors import UserError
from unified_jax.interop import files

ARRAYS = {name: np.full(2, i, np.float32) for i, name in enumerate("abc")}
FIRST, SECOND = "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"


def index(folder, weight_map, name="m.safetensors.index.json"):
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": weight_map}))
    return folder / name


@pytest.fixture
def folder(tmp_path):
    """Two parts, in a folder whose name is no ASCII."""
    folder = tmp_path / "Gewichte für Ωμέγα 重み"
    folder.mkdir()
    save_file({"module.a": ARRAYS["a"], "module.b": ARRAYS["b"]}, folder / FIRST)
    save_file({"module.c": ARRAYS["c"]}, folder / SECOND)
    return folder


WHOLE = {"module.a": FIRST, "module.b": FIRST, "module.c": SECOND}


def same(found):
    assert set(found) == set(ARRAYS)
    assert all(np.array_equal(found[name], value) for name, value in ARRAYS.items())


def test_a_folder_an_index_and_a_folder_with_an_index(folder):
    same(files.read(folder))
    same(files.read(index(folder, WHOLE)))
    same(files.read(folder))
    (folder / "config.json").write_text('{"sample_size": 8}')
    (folder / "m.bin").write_bytes(b"torch's copy of the same")
    same(files.read(folder))
    assert files.described(folder) == {"config": {"sample_size": 8}}


def refused(path, words):
    """Whether reading is refused in these words; another sentence is shown."""
    with pytest.raises(UserError) as told:
        files.read(path)
    return re.search(words, str(told.value)) is not None or pytest.fail(str(told.value))


def test_parts_that_are_missing_extra_or_twice_are_named(folder):
    assert refused(folder / FIRST, "is one part of 2; give the index or the folder")
    assert refused(index(folder, WHOLE | {"module.d": SECOND}), rf"its parts lack module\.d \({SECOND}\)")
    assert refused(index(folder, {"module.a": FIRST, "module.c": SECOND}), rf"it does not list module\.b \({FIRST}\)")
    assert refused(
        index(folder, {"module.a": FIRST, "module.b": FIRST}), f"holds parts that it does not list: {SECOND}"
    )
    assert refused(index(folder, WHOLE | {"x": "n.safetensors"}), r"parts that are not there: n\.safetensors")
    for outside in ("../n.safetensors", "/n.safetensors", "sub/n.safetensors", "n.txt", ""):
        assert refused(index(folder, WHOLE | {"x": outside}), "not weights files of its folder")
    save_file({"module.a": ARRAYS["a"], "module.c": ARRAYS["c"]}, folder / SECOND)
    assert refused(index(folder, WHOLE), rf"{FIRST} and {SECOND} of .* both hold module\.a")
    (folder / "m.safetensors.index.json").unlink()
    assert refused(folder, rf"{FIRST} and {SECOND} of .* both hold module\.a")
    (folder / FIRST).unlink()
    assert refused(folder, "should hold the parts 1 .. 2; missing: 1")
    save_file(ARRAYS, folder / "other.safetensors")
    assert refused(folder, f"several sets of weights: {SECOND}, other.safetensors; give one of them")
    (folder / SECOND).unlink()
    same(files.read(folder))


def test_damaged_indexes_and_folders_without_weights(folder, tmp_path):
    path = index(folder, WHOLE)
    whole = path.read_text()
    for content, words in (
        (whole[:-9], "cannot be read; it is damaged"),
        ("", "cannot be read; it is damaged"),
        ("[" * 100_000, "cannot be read; it is damaged"),
        (whole.replace('"module.b"', '"module.a"'), r"lists module\.a more than once"),
        ("[1]", "lists no parts"),
        ('{"weight_map": {}}', "lists no parts"),
        ('{"weight_map": {"a": 1}}', "lists no parts"),
    ):
        path.write_text(content)
        assert refused(path, words)
    index(folder, WHOLE, "n.safetensors.index.json")
    assert refused(folder, "several indexes: m.safetensors.index.json, n.safetensors.index.json")
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty", r"holds no file that ends in \.safetensors")
    (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-3])
    assert refused(folder / "n.safetensors.index.json", f"{SECOND}' cannot be read; it is damaged")
