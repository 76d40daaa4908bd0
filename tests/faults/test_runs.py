"""Whole runs that meet a fault. Each line of docs/faults.md names a test."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image as Pillow

from tests.helpers import EXPERIMENT, ROOT, command, environment, run
from unified_jax.cli import sample, train
from unified_jax.cli.entry import run_command, use_compilation_cache
from unified_jax.config import to_plain
from unified_jax.data.pipeline import Pipeline
from unified_jax.data.tfds import Tfds
from unified_jax.errors import RunError, UserError
from unified_jax.modalities.label import Label
from unified_jax.models.tuned import Tuning
from unified_jax.runs.checkpoints import Checkpointing, Checkpoints
from unified_jax.runs.lock import RunLock
from unified_jax.runs.metrics import read_lines
from unified_jax.runs.resume import FREE, check_same_run, differences
from unified_jax.training.experiment import Previews, Validation

QUIET = ("--preview.every", "0", "--validation.every", "0")


@pytest.mark.slow
def test_a_disk_that_is_full_to_the_end_is_exit_code_1_without_a_traceback(tmp_path, recipe, cache):
    limited = ["bash", "-c", 'ulimit -S -f 58; exec "$@"', "_"]  # KiB a file; forking a process with devices open warns
    done = subprocess.run(
        [*limited, sys.executable, "train.py", str(recipe), "--run-dir", str(tmp_path), *QUIET],
        cwd=ROOT, env=environment(devices=1), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "A checkpoint could not be written" in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: The last step, 12, could not be saved")
    assert "nothing of this run could be saved" in last
    assert read_lines(tmp_path / "metrics.jsonl")[-1]["step"] == 12


WHILE = """
import errno, itertools, sys, time
from unified_jax.cli import train
from unified_jax.cli.entry import run_command
from unified_jax.runs.checkpoints import Checkpoints

jumps, offset, clock, real = itertools.cycle([-86400.0, 4e9, -1e9]), [0.0], time.time, Checkpoints._save
time.time = lambda: clock() + offset[0]


def save(self, manager, state, step, loss):
    offset[0] = next(jumps)  # between two saves, and so under everything else that is going on
    if step == 4:
        self._failed(manager, OSError(errno.ENOSPC, "No space left on device"))
    else:
        real(self, manager, state, step, loss)


Checkpoints._save = save
sys.exit(run_command(train.main, sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while_and_a_clock_that_jumps_change_nothing(tmp_path, tiny, cache):
    flags = ("--steps", "6", "--checkpoint.every", "2", *QUIET)
    code, _, err = run("-c", WHILE, tiny, "--run-dir", tmp_path, *flags, cache=cache)
    assert code == 0, err
    assert "Traceback" not in err
    assert "the disk is full; the next save tries again. The last good checkpoint is step 2." in err
    assert Checkpoints(tmp_path, write=False).steps() == [2, 6]
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert all(value >= 0 for line in lines for name, value in line.items() if name.startswith("time/"))


@pytest.mark.slow
def test_two_runs_in_one_directory(tmp_path, tiny, cache):
    folder = tmp_path / "run"
    first = command(
        "train.py", tiny, "--run-dir", folder, "--steps", "1000000", "--checkpoint.every", "5", *QUIET, cache=cache
    )
    try:
        rolling = folder / "checkpoints" / "rolling"
        deadline = time.monotonic() + 300
        while not any(p.name.isdigit() for p in rolling.glob("*")):
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert run_command(train.main, [str(tiny), "--run-dir", str(folder)]) == 2
        with pytest.raises(UserError, match=f"Another run is training in .*process {first.pid} on .*another --run-dir"):
            RunLock(folder).__enter__()
        out = str(tmp_path / "out")
        arguments = ["--run", str(folder), "--count", "2", "--steps", "1", "--formats", "npz", "--out", out]
        assert run_command(sample.main, arguments) == 0
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    with RunLock(folder):
        assert (folder / ".lock").read_text().startswith(f"process {os.getpid()} ")


def test_a_lock_is_held_once_and_released(tmp_path):
    with RunLock(tmp_path):
        with pytest.raises(UserError, match="Another run is training"), RunLock(tmp_path):
            pass
    with RunLock(tmp_path):
        pass
    with pytest.raises(UserError, match="cannot be written"), RunLock(tmp_path / "nowhere"):
        pass


class Torn(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Twenty-four pictures, one of them cut in half."""

    VERSION = tfds.core.Version("1.0.0")
    name = "torn"
    pkg_dir_path = None

    def _info(self):
        features = {"image": tfds.features.Image(shape=(16, 16, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(24):
            buffer = io.BytesIO()
            noise = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
            Pillow.fromarray(noise).save(buffer, "PNG")
            content = buffer.getvalue()
            yield i, {"image": content[: len(content) // 2] if i == 13 else content, "label": i % 3}


DRAWINGS = """
import dataclasses, sys
sys.path.insert(0, {tests!r})
from helpers import TINY
from unified_jax.data.tfds import Tfds
from unified_jax.modalities.label import Label
from unified_jax.training.experiment import Checkpointing
from unified_jax.training.experiment import Previews, Validation


def experiment():
    model = dataclasses.replace(TINY.model, conditions=(Label("label", 3),))
    return dataclasses.replace(
        TINY, data=Tfds("torn", {folder!r}), model=model, checkpoint=Checkpointing(every=1), seed={seed},
        steps=6, preview=Previews(every=0), validation=Validation(every=0),
    )
"""


def test_a_corrupt_record_stops_the_run_and_names_itself(tmp_path, one_device, capsys):
    Torn(data_dir=tmp_path / "data", file_format="array_record").download_and_prepare()
    data = Tfds("torn", str(tmp_path / "data"))
    source = data.parts("train", ("image", "label"))[0][2]
    (bad,) = [i for i in range(24) if not _readable(source, i)]
    seed, step = _meets(data, bad)
    recipe = tmp_path / "drawings.py"
    recipe.write_text(DRAWINGS.format(tests=str(ROOT / "tests"), folder=str(tmp_path / "data"), seed=seed))
    assert run_command(train.main, [str(recipe), "--run-dir", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"error: Step {step + 1} (split 'train') has no data: Data set 'torn', split 'train': ")
    assert f"record {bad} cannot be read (an image of " in last
    assert last.endswith(f"The last good checkpoint is step {step}.")
    assert Checkpoints(tmp_path / "run", write=False).steps()[-1] == step


def _readable(source, index):
    try:
        return bool(source[index])
    except RunError:
        return False


def _meets(data, bad):
    """(seed, step): a seed whose first epoch meets the record after a step or two."""
    for seed in range(100):
        pipeline = Pipeline(data, "train", (Label("label", 3),), 8, seed)
        for step in (1, 2):
            if bad in pipeline.batch(step).ids:
                return seed, step
    raise AssertionError("no such seed")


OTHER = {
    "model": dataclasses.replace(EXPERIMENT.model, drop_some=0.3),
    "data": dataclasses.replace(EXPERIMENT.data, resolution=32),
    "split": "test",
    "tuning": Tuning(rank=4),
    "optimizer": dataclasses.replace(EXPERIMENT.optimizer, learning_rate=0.5),
    "ema": (),
    "batch_size": 16,
    "reduction": "strict",
    "virtual_shards": 4,
    "seed": 3,
    "dtype": "auto",
}
ALLOWED = {
    "mesh": dataclasses.replace(EXPERIMENT.mesh, data=2),
    "accumulate": 2,
    "log_every": 7,
    "checkpoint": Checkpointing(every=3),
    "preview": Previews(every=0),
    "validation": Validation(every=1),
    "evaluate": 5,
    "non_finite": "skip",
}


def write_config(folder, **fields):
    plain = to_plain(EXPERIMENT) | {name: to_plain(value) for name, value in fields.items()}
    (folder / "config.json").write_text(json.dumps(plain))


@pytest.mark.parametrize("name", OTHER)
def test_what_decides_the_numbers_may_not_change(tmp_path, name):
    write_config(tmp_path, **{name: OTHER[name]})
    with pytest.raises(UserError, match=rf"another {name}.*(->).*another --run-dir"):
        check_same_run(EXPERIMENT, tmp_path)


@pytest.mark.parametrize("name", ALLOWED)
def test_what_decides_when_things_are_written_may_change(tmp_path, name):
    assert getattr(EXPERIMENT, name) != ALLOWED[name]
    write_config(tmp_path, **{name: ALLOWED[name]})
    check_same_run(EXPERIMENT, tmp_path)


def test_every_field_of_an_experiment_is_decided():
    fields = {field.name for field in dataclasses.fields(EXPERIMENT)}
    assert set(FREE) <= fields
    assert fields - set(FREE) - {"steps", "balance"} == set(OTHER)


def test_steps_may_shrink_only_under_a_constant_schedule(tmp_path):
    write_config(tmp_path, steps=99)
    check_same_run(EXPERIMENT, tmp_path)
    cosine = dataclasses.replace(EXPERIMENT, optimizer=dataclasses.replace(EXPERIMENT.optimizer, schedule="cosine"))
    write_config(tmp_path, steps=99, optimizer=cosine.optimizer)
    with pytest.raises(UserError, match=r"another steps \(99 -> 12\) \(steps may only grow where .* is cosine"):
        check_same_run(cosine, tmp_path)
    write_config(tmp_path, steps=9, optimizer=cosine.optimizer)
    check_same_run(cosine, tmp_path)


def test_every_changed_field_is_listed(tmp_path):
    optimizer = dataclasses.replace(EXPERIMENT.optimizer, learning_rate=0.5, warmup_steps=9)
    write_config(tmp_path, optimizer=optimizer, seed=3)
    with pytest.raises(UserError) as refused:
        check_same_run(EXPERIMENT, tmp_path)
    for words in ("optimizer.learning_rate (0.5 -> 0.001)", "optimizer.warmup_steps (9 -> 3)", "seed (3 -> 0)"):
        assert words in str(refused.value)
    assert differences(EXPERIMENT, to_plain(EXPERIMENT)) == []
    older = to_plain(EXPERIMENT)
    del older["accumulate"]  # a field that an older version did not have had what is now its default
    assert differences(EXPERIMENT, older) == []
    assert differences(EXPERIMENT, older | {"gone": 1}) == ["gone (1 -> no such field)"]


def test_directories_that_cannot_be_written(tmp_path, tiny, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    assert run_command(train.main, [str(tiny), "--run-dir", str(tmp_path / "file" / "run")]) == 2
    assert "cannot be written: Not a directory" in capsys.readouterr().err
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file" / "cache"))
    use_compilation_cache()
    assert "Compiled programs are not kept" in capsys.readouterr().err
