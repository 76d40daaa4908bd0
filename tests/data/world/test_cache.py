"""The world on disk: TFDS opens it, every example is the rendered one, and what does not fit is refused."""

import subprocess
import sys

import numpy as np
import pytest

from unified_jax.cli import data
from unified_jax.cli.entry import run_command
from unified_jax.data.world import World
from unified_jax.errors import UserError

SIZES = ["--train", "12", "--test", "3", "--held-out", "3", "--resolution", "16", "--frames", "3", "--points", "20"]
WORLD = {"resolution": 16, "frames": 3, "points": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cache")
    assert run_command(data.main, ["build", "unified_world", "--data-dir", str(path), *SIZES]) == 0
    return path


def test_cached_examples_are_the_rendered_ones_to_the_bit(folder):
    """All fields of all splits; beyond the cache the rest is rendered."""
    rendered, cached = World(**WORLD), World(**WORLD, cache=str(folder))
    for split in ("train", "test", "held_out"):
        for i in (0, 1, 2, 11, 50):
            want, found = rendered.source(split)[i], cached.source(split)[i]
            assert set(want) == set(found)
            for name, value in want.items():
                assert type(found[name]) is type(value)
                assert getattr(found[name], "dtype", None) == getattr(value, "dtype", None)
                np.testing.assert_array_equal(found[name], value)
    some = cached.source("train", ("caption", "image"))[5]
    assert list(some) == ["caption", "image"]
    assert len(cached.source("train")) == len(rendered.source("train"))
    edits = World(**WORLD, max_objects=1, cache=str(folder)).source("train", ("instruction", "edited"))[0]
    assert np.asarray(edits["edited"]).shape == (16, 16, 3)


def test_tfds_opens_it_without_tensorflow(folder):
    code = f"""
import sys
import tensorflow_datasets as tfds
source = tfds.data_source("unified_world", data_dir={str(folder)!r}, split="test")
one = source[1]
print("tensorflow" in sys.modules, len(source), one["audio"].shape, one["points"].shape, len(one["video"]))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "False 3 (8000,) (20, 6) 3", found.stderr[-500:]


def test_what_does_not_fit_is_refused(folder, tmp_path, capsys):
    with pytest.raises(UserError, match=r"differs: resolution 16, asked for 32"):
        World(frames=3, points=20, cache=str(folder)).source("test")[0]
    with pytest.raises(UserError, match="holds no cached world; write one with"):
        World(cache=str(tmp_path)).source("test")[0]
    arguments = ["build", "unified_world", "--data-dir", str(folder), *SIZES]
    assert run_command(data.main, arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert run_command(data.main, ["build", "unified_world", "--data-dir", str(tmp_path), "--train", "0"]) == 2
    assert "must be at least 1" in capsys.readouterr().err
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert run_command(data.main, ["build", "unified_world", "--data-dir", str(blocked), *SIZES]) == 2
    assert "cannot be written" in capsys.readouterr().err
