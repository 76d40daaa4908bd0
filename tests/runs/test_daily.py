"""Daily work with a run: any kept checkpoint, any samples of it, a time limit, more steps, moved data, a dry run."""

import dataclasses
import json
import shutil
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow
from tensorboardX.proto.event_pb2 import Event

import unified_jax as uj
from tests.helpers import EXPERIMENT, TINY
from unified_jax.cli import sample
from unified_jax.cli.entry import run_command
from unified_jax.cli.train import evaluated
from unified_jax.config import flat_fields
from unified_jax.data.pipeline import Pipeline
from unified_jax.data.tfds import Tfds
from unified_jax.runs import loop
from unified_jax.runs.directory import save_experiment
from unified_jax.runs.dry_run import dry_run
from unified_jax.runs.metrics import read_lines
from unified_jax.runs.resume import DATA, check_same_data, check_same_run, data_moved
from unified_jax.runs.start import Start
from unified_jax.runs.tensorboard import Board

LONG = dataclasses.replace(
    TINY, steps=6, checkpoint=uj.Checkpointing(every=1, keep=1, keep_every=2), validation=uj.Validation(every=0),
    preview=dataclasses.replace(TINY.preview, every=0),
    optimizer=dataclasses.replace(TINY.optimizer, schedule="cosine"),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, one_device):
    """Two hours' limits that are over at once, then the rest of six steps."""
    folder = tmp_path_factory.mktemp("daily") / "run"
    summary = loop.train(LONG, Start(folder, quiet=True, hours=1e-9))
    assert not summary["finished"]
    assert summary["step"] == 0
    summary = loop.train(LONG, Start(folder, quiet=True))
    assert summary["finished"]
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    return folder


def test_any_kept_checkpoint_opens(folder):
    kept = sorted(int(p.name) for p in (folder / "checkpoints" / "rolling").iterdir())
    assert kept == [0, 2, 4, 6]  # 0: stopped before the first step
    early, late = uj.load(folder, step=2), uj.load(folder)
    assert (early.step, late.step) == (2, 6)
    leaves = [run.params["mlp"]["fc1"]["kernel"] for run in (early, late)]
    assert np.abs(np.asarray(leaves[0]) - np.asarray(leaves[1])).max() > 0
    with pytest.raises(uj.UserError, match="holds no checkpoint of step 5; it keeps 0, 2, 4, 6"):
        uj.load(folder, step=5)
    with pytest.raises(uj.UserError, match="--best and --step name two checkpoints"):
        uj.load(folder, step=4, best=True)


def test_some_of_the_samples_are_drawn_again(folder, tmp_path):
    """Sample 3 is sample 3, with the condition that index 3 has, whatever else is drawn."""
    run, given = uj.load(folder), {"shape": ["star", "ring", "circle"], "colour": ["red", "blue"]}
    whole, part = run.sample(given, count=6, seed=2), run.sample(given, first=3, count=2, seed=2)
    for name in ("shape", "colour"):
        assert part.given[name].tolist() == whole.given[name][3:5].tolist()
    assert np.abs(part["image"].astype(int) - whole["image"][3:5]).max() <= 1
    flags = ["--run", str(folder), "--given.shape", "star,ring,circle", "--given.colour", "red,blue", "--first", "3"]
    flags += ["--count", "2", "--seeds", "2", "7", "--formats", "npz,png", "--out", str(tmp_path / "o")]
    assert run_command(sample.main, flags) == 0
    found = [np.load(tmp_path / f"o_seed_{seed}" / "samples.npz") for seed in (2, 7)]
    assert found[0]["index"].tolist() == [3, 4]
    np.testing.assert_array_equal(found[0]["image"], part["image"])
    assert np.any(found[1]["image"] != part["image"])
    assert sorted(p.name for p in (tmp_path / "o_seed_7" / "images").iterdir()) == ["000003.png", "000004.png"]
    assert json.loads((tmp_path / "o_seed_7" / "request.json").read_text())["seed"] == 7
    for more, words in ((["--first", "-1"], "--first"), (["--seeds", "1", "1"], "--seeds names a seed twice")):
        assert run_command(sample.main, ["--run", str(folder), *more]) == 2, words


def test_more_steps_are_a_branch_that_is_recorded(folder, tmp_path, capfd):
    longer = tmp_path / "longer"
    shutil.copytree(folder, longer)
    summary = loop.train(dataclasses.replace(LONG, steps=8), Start(longer))
    assert summary["step"] == 8
    assert json.loads((longer / "origin.json").read_text())["branches"] == [{"step": 6, "steps": [6, 8]}]
    assert "More steps, 6 -> 8: from step 6 on" in " ".join(capfd.readouterr().err.split())
    rates = {line["step"]: line["lr"] for line in read_lines(longer / "metrics.jsonl")}
    assert rates[7] > rates[6]


def test_other_settings_are_told_before_the_records_that_follow_from_them(folder):
    other = dataclasses.replace(LONG, data=dataclasses.replace(LONG.data, seed=3))
    with pytest.raises(uj.UserError, match=r"holds a run with another data\.seed"):
        loop.train(other, Start(folder, quiet=True))


def test_data_may_move_and_must_stay_the_same(tmp_path):
    """A folder is where examples lie, not what they are; their number and the first of them are compared."""
    save_experiment(tmp_path, dataclasses.replace(EXPERIMENT, data=Tfds(data_dir="here")))
    check_same_run(dataclasses.replace(EXPERIMENT, data=Tfds(data_dir="/else/where")), tmp_path)
    with pytest.raises(uj.UserError, match=r"another data\.set"):
        check_same_run(dataclasses.replace(EXPERIMENT, data=Tfds("mnist", data_dir="here")), tmp_path)
    pipeline = Pipeline(EXPERIMENT.data, "train", EXPERIMENT.model.modalities, 8, 0)
    described = pipeline.described()
    first = pipeline.example(0)
    assert described == [
        {
            "name": "world", "examples": 1_000_000,
            "first": zlib.crc32(b"".join(first[name].tobytes() for name in sorted(first))),
        }
    ]  # fmt: skip
    check_same_data(described, tmp_path)  # an earlier version recorded nothing
    (tmp_path / "environment.json").write_text(json.dumps({"data": described}))
    check_same_data(described, tmp_path)
    (tmp_path / DATA).write_text(json.dumps({"parts": described}))
    check_same_data(described, tmp_path)
    changes = {
        "had 1000000 records, now 7": {"examples": 7},
        "first record": {"first": 1},
        "other now": {"name": "other"},
    }
    for words, change in changes.items():
        with pytest.raises(uj.UserError, match=f"was trained on other examples: .*{words}"):
            check_same_data([described[0] | change], tmp_path)
    (tmp_path / DATA).write_text(json.dumps({"parts": [described[0] | {"digest": "a"}]}))
    check_same_data([described[0] | {"digest": "a", "name": "moved", "first": 1}], tmp_path)
    with pytest.raises(uj.UserError, match="names or sizes of the 1000000 records"):
        check_same_data([described[0] | {"digest": "b"}], tmp_path, moved=False)


def test_a_dry_run_says_what_a_run_takes_and_trains_nothing(tmp_path):
    said = dry_run(dataclasses.replace(LONG, model=EXPERIMENT.model), tmp_path / "run")
    for words in ("parameters      0.06 M", "8 examples, 6 steps", "FLOPs a step", "1000000 examples", "first batch"):
        assert words in said
    assert [p.name for p in tmp_path.iterdir()] == ["run-first_batch.png"]


def test_tensorboard_has_configuration_and_hyperparameters(folder):
    """Read by TensorBoard's own format: records of events."""
    tags = set()
    for path in sorted((folder / "tensorboard").iterdir()):
        data, place = path.read_bytes(), 0
        while place < len(data):
            size = int.from_bytes(data[place : place + 8], "little")
            event = Event.FromString(data[place + 12 : place + 12 + size])
            tags |= {value.tag for value in event.summary.value}
            place += 16 + size
    assert {"loss", "config/text_summary", "_hparams_/session_start_info"} <= tags
    fields = flat_fields({"class": "unified_jax.a.B", "x": 1, "y": {"class": "unified_jax.c.D", "z": [1, 2]}})
    assert fields == {"x": 1, "y": "D", "y.z": "[1, 2]"}
    first, second = (flat_fields({"class": "unified_jax.a.B", "y": [*range(200), last]}) for last in (1, 2))
    assert first != second  # however long a list is


def test_a_board_shows_images(tmp_path):
    Pillow.new("RGB", (6, 4), "red").save(tmp_path / "a.png")
    board = Board(tmp_path / "board", 0)
    board.image(3, "preview", tmp_path / "a.png")
    board.close()
    (path,) = (tmp_path / "board").iterdir()
    data = path.read_bytes()
    assert (tmp_path / "a.png").read_bytes() in data
    assert b"preview" in data


def test_checkpoints_are_kept_at_multiples():
    with pytest.raises(ValueError, match=r"keep_every must be a multiple of checkpoint.every = 4, found 6"):
        uj.Checkpointing(every=4, keep_every=6)


def test_only_data_that_moved_are_looked_at_again(tmp_path):
    here = dataclasses.replace(EXPERIMENT, data=Tfds(data_dir="here"))
    save_experiment(tmp_path, here)
    assert not data_moved(here, tmp_path)
    assert data_moved(dataclasses.replace(EXPERIMENT, data=Tfds(data_dir="there")), tmp_path)


def test_a_finished_runs_evaluation_is_made_once(tmp_path):
    """Unless more samples are asked for."""
    asked = dataclasses.replace(EXPERIMENT, evaluate=256)
    assert not evaluated(asked, tmp_path, {"step": 12})
    (tmp_path / "evaluation.json").write_text(json.dumps({"step": 12, "rows": [{"n": 512}, {"n": 3}]}))
    assert evaluated(asked, tmp_path, {"step": 12})
    assert not evaluated(asked, tmp_path, {"step": 13})
    assert not evaluated(dataclasses.replace(asked, evaluate=1024), tmp_path, {"step": 12})
    with pytest.raises(uj.UserError, match="evaluate not 1: intervals need two samples"):
        dataclasses.replace(EXPERIMENT, evaluate=1)
