"""What a person types: good requests, and mistakes that get one sentence and exit code 2."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.helpers import ROOT, on_one_device, write_recipe
from unified_jax.api import run as front
from unified_jax.cli import evaluate, sample, train
from unified_jax.cli.entry import run_command
from unified_jax.errors import UserError
from unified_jax.runs import bench
from unified_jax.runs.recipe import load_recipe

QUIET = ("--preview.every", "0", "--validation.every", "0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one step."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        on_one_device(patch)
        assert ends(train.main, write_recipe(folder), "--run-dir", folder / "run", "--steps", "1", *QUIET) == 0
    return folder / "run"


def ends(main, *arguments):
    """(exit code, the last line of stderr) of a command run in this process."""
    return run_command(main, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Usage: unified-jax train RECIPE"),
        (
            ("quickstrat",),
            "Unknown recipe 'quickstrat'; did you mean quickstart? Recipes: caption_autoencoder, caption_encoder, cap",
        ),
        (("no/such.py",), "does not exist"),
        (("quickstart", "--steps", "-3"), "--steps must be at least 1, found -3"),
        (("quickstart", "--batch-size", "0"), "must be at least 1"),
        (("quickstart", "--accumulate", "3"), "not divisible into 3 microbatches"),
        (("quickstart", "--batch-size", "60"), "multiple of 8"),
        (("quickstart", "--mesh.data", "3"), "does not fit 8 device"),
        (("quickstart", "--mesh.data", "1", "--mesh.tensor", "8"), "into 8 parts"),
        (("dit_fashion_mnist", "--data.data-dir", "nowhere"), "the folder 'nowhere' does not exist"),
        (("quickstart", "--run-dir", "/proc/nothing"), "cannot be written"),
        (("quickstart", "--replay", "5", "--run-dir", "nowhere"), "does not exist"),
        (("quickstart", "--split", "validation"), "no split 'validation'"),
    ],
)
def test_train_mistakes(arguments, words, capsys):
    assert ends(train.main, *arguments) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--model.network.trunk.dpeth", "3"), "--model.network.trunk.depth"),
        (("--model.network.trunk.depth", "four"), "depth"),
        (("--model.network.trunk.depth", "0"), "DiT.depth must be at least 1"),
        (("--model.modality.patch", "0"), "must be positive"),
        (("--model.process.target", "eps"), "says nothing about x0"),
        (("--resume", "perhaps"), "must"),
    ],
)
def test_bad_flags_exit_with_2_and_a_hint(flags, words, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["quickstart", *flags])
    assert stop.value.code == 2
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_samples_of_every_format(trained, tmp_path, monkeypatch, capsys):
    on_one_device(monkeypatch)
    code = ends(
        sample.main, "--run", trained, "--given.shape", "star,3", "--given.colour=red", "--count", "5", "--steps", "2",
        "--guidance", "3", "--seed", "7", "--batch", "2", "--out", tmp_path, "--formats", "sheet,png,npz",
    )  # fmt: skip
    assert code == 0
    assert "5 samples" in capsys.readouterr().out
    with np.load(tmp_path / "samples.npz") as archive:
        saved = dict(archive)
    assert saved["image"].shape == (5, 16, 16, 3)
    assert saved["image"].dtype == np.uint8
    assert saved["given/shape"].tolist() == [4, 3, 4, 3, 4]
    assert saved["given/colour"].tolist() == [0] * 5
    assert saved["index"].tolist() == list(range(5))
    with Pillow.open(tmp_path / "images" / "000003.png") as one, Pillow.open(tmp_path / "sheet.png") as sheet:
        np.testing.assert_array_equal(np.asarray(one), saved["image"][3])
        assert sheet.size[0] > 100
    request = json.loads((tmp_path / "request.json").read_text())
    assert (request["seed"], request["plan"]["guidance"]["scale"], request["step"]) == (7, 3.0, 1)
    assert {"commit", "config_hash", "device", "versions"} <= set(request)


def test_batch_size_and_devices_do_not_matter(trained, tmp_path, monkeypatch):
    """All eight devices in batches of a row each, and one device at once."""
    made = []
    for name, batch in (("eight", 8), ("one", 32)):
        flags = ("--count", "32", "--steps", "4", "--batch", batch, "--formats", "npz", "--out", tmp_path / name)
        assert ends(sample.main, "--run", trained, *flags) == 0
        on_one_device(monkeypatch)
        with np.load(tmp_path / name / "samples.npz") as archive:
            made.append(archive["image"].astype(int))
    assert np.abs(made[0] - made[1]).max() <= 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--given.shape", "9"), "--given.shape '9': expected 0 .. 5"),
        (("--given.shape", "blob"), "--given.shape 'blob': expected 0 .. 5 or one of circle, square"),
        (("--given.texture", "1"), "conditioned on shape, colour"),
        (("--given.caption", "a small red circel"), "circel"),
        (("--given.caption", "@missing.txt"), "'missing.txt' cannot be read"),
        (("--given.color", "red"), "conditioned on shape, colour; did you mean --given.colour?"),
        (("--given.shape", "star", "--given.shape", "ring"), "--given.shape is given twice"),
        (("--given.shape", "@."), "it is a folder"),
        (("--count", "0"), "at least 1"),
        (("--count", "1e15"), "so many samples take"),
        (("--steps", "1e9"), "at most 1000000"),
        (("--devices", "-1"), "--devices must lie in 0 .. 1024"),
        (("--sampler", "ddim:eta=nan"), "--sampler ddim: eta: expected a finite number"),
        (("--steps", "0"), "at least one step"),
        (("--sampler", "ddpm"), "Ddpm needs a discrete process"),
        (("--formats", "gif"), "--formats gif is unknown"),
        (("--ema", "2"), "keeps 2 EMA"),
        (("--ema", "²"), "keeps 2 EMA"),
        (("--out", "/proc/nothing"), "cannot be written"),
    ],
)
def test_sample_mistakes(trained, flags, words, capsys):
    assert ends(sample.main, "--run", trained, *flags) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err


@pytest.fixture
def drawn(monkeypatch):
    """What `generate_many` gives, without drawing: grey pictures, and places that are set to a number."""
    bad = {}

    def generate(model, params, given, wanted, count, *others):
        made = np.zeros((count, 16, 16, 3), np.float32)
        for i, value in bad.items():
            made[i, 3, 4, 1] = value
        return {"image": made}

    for module in (front, bench):
        monkeypatch.setattr(module, "generate_many", generate)
    return bad


def test_a_second_request_is_not_mixed_with_the_first(trained, tmp_path, drawn):
    for count, formats in (("4", "sheet,png,npz"), ("2", "png")):
        flags = ("--count", count, "--formats", formats, "--out", tmp_path / "out")
        assert ends(sample.main, "--run", trained, *flags) == 0
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"images/000000.png", "images/000001.png", "request.json"}
    assert json.loads((tmp_path / "out.1" / "request.json").read_text())["count"] == 4
    assert len(list((tmp_path / "out.1").rglob("*.png"))) == 5
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert ends(sample.main, "--run", trained, "--count", "2", "--out", tmp_path / "out") == 2
    assert found | {"notes.txt"} == {
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()
    }


def test_samples_that_are_not_finite_are_a_failed_run(trained, tmp_path, drawn, capsys):
    """Of either command: it names them, writes none, and leaves what was written before."""
    calls = (sample, "--count", "3"), (evaluate, "--count", "16", "--splits", "test")
    assert ends(sample.main, "--run", trained, "--out", tmp_path / sample.__name__, *calls[0][1:]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    drawn |= {1: np.nan, 2: np.inf}
    for command, *flags in calls:
        capsys.readouterr()
        assert ends(command.main, "--run", trained, "--out", tmp_path / command.__name__, *flags) == 1
        told = f"2 of {flags[1]} samples of 'image' are not finite numbers (sample 1, 2), so nothing was written"
        assert told in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_an_evaluation_leaves_no_pictures_of_the_one_before(trained, tmp_path, drawn):
    for splits in (("test", "held_out"), ("test",)):
        assert ends(evaluate.main, "--run", trained, "--out", tmp_path, "--count", "16", "--splits", *splits) == 0
        (tmp_path / "evaluation_mine.png").write_text("mine")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"evaluation.json", "evaluation_test.png", "evaluation_mine.png"}


@pytest.mark.parametrize(
    ("folder", "words"), [("nowhere", "does not exist"), (str(ROOT / "docs"), "is no run directory")]
)
def test_a_folder_that_is_no_run(folder, words, capsys):
    assert ends(sample.main, "--run", folder) == 2
    assert words in capsys.readouterr().err
    assert ends(evaluate.main, "--run", folder) == 2
    assert words in capsys.readouterr().err


def test_evaluation_writes_rows_with_intervals_and_held_out_apart(trained, capsys):
    assert ends(evaluate.main, "--run", trained, "--count", "16", "--steps", "2") == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("attribute accuracy 0.")
    result = json.loads((trained / "evaluation.json").read_text())
    rows = {(r["split"], r["metric"]): r for r in result["rows"]}
    for split in ("test", "held_out"):
        row = rows[split, "attribute_accuracy"]
        assert row["low"] <= row["value"] <= row["high"]
        assert row["given"] == ["shape", "colour"]
        assert row["chance"] == pytest.approx((1 / 6 + 1 / 8) / 2)
        assert rows[split, "frechet/pooled_pixels"]["value"] > 0
    assert (trained / "evaluation_held_out.png").exists()


def test_recipes_speak_in_sentences(tmp_path):
    (tmp_path / "broken.py").write_text("1/0")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        load_recipe(str(tmp_path / "broken.py"))
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(UserError, match="needs a function experiment"):
        load_recipe(str(tmp_path / "empty.py"))


def test_fake_devices_have_threads_enough_for_their_collectives():
    """One thread a device would be too few; PJRT_NPROC, where it is set, is left alone."""
    code = """
import os, sys
from unified_jax.cli.entry import use_fake_devices
use_fake_devices(int(sys.argv[1]))
import jax
print(len(jax.devices()), os.environ.get("PJRT_NPROC"), len(os.listdir("/proc/self/task")) >= 64)
"""
    bare = {name: value for name, value in os.environ.items() if name not in ("PJRT_NPROC", "XLA_FLAGS")}
    cases = ((bare, 4, "4 64 True"), (bare, 0, "1 None False"), (bare | {"PJRT_NPROC": "3"}, 4, "4 3 "))
    for given, count, told in cases:
        done = subprocess.run(
            [sys.executable, "-c", code, str(count)], cwd=ROOT, env=given, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith(told)
