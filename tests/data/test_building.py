"""Any source as ArrayRecord files: the same records and bytes whatever happens, and looking at and checking sets."""

import io
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image as Pillow

from unified_jax.cli.data import main
from unified_jax.cli.entry import run_command
from unified_jax.data.files import Files
from unified_jax.data.folder import Folder
from unified_jax.data.pipeline import Pipeline
from unified_jax.data.records import Records, decode_record, encode_record
from unified_jax.errors import RunError, UserError
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.reading import File
from unified_jax.runs.building import Order, build
from unified_jax.runs.checking import check
from unified_jax.runs.looking import look


def png(i, mode="RGB", size=(8, 8)):
    buffer = io.BytesIO()
    Pillow.new("RGB", size, (10 * i, 5 * i, i)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twenty pictures of two classes with captions."""
    root = tmp_path_factory.mktemp("data") / "photos"
    for i in range(20):
        folder = root / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02d}.png").write_bytes(png(i))
        (folder / f"{i:02d}.txt").write_text(f"picture {i}\n")
    return root


FIELDS = ("image", "label", "caption")


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.array_record"))}


def test_a_record_comes_back_as_it_was():
    record = {
        "image": File("a.png", stored=png(1)), "caption": "café", "label": 3, "wave": np.arange(4, dtype=np.int16),
        "score": 0.5, "one": np.float32(2),
    }  # fmt: skip
    found = decode_record(encode_record(record))
    assert (found["image"].name, found["image"].content) == ("a.png", png(1))
    assert {k: found[k] for k in ("caption", "label", "score")} == {"caption": "café", "label": 3, "score": 0.5}
    assert found["wave"].dtype == np.int16 and found["wave"].tolist() == [0, 1, 2, 3]
    assert found["one"].dtype == np.float32 and found["one"].shape == ()
    with pytest.raises(ValueError, match="expected a text, a number, an array or a file, found object"):
        encode_record({"odd": object()})
    with pytest.raises(ValueError, match="are no record"):
        decode_record(b"\xc1\x00")


def test_built_records_are_those_of_the_source(photos, tmp_path):
    """Any number of threads gives the same bytes; a finished folder stays as it is."""
    data = Folder(str(photos), test=0.2)
    for workers in (1, 5):
        head = build(data, Order(tmp_path / f"by_{workers}", ("train", "test"), FIELDS, workers, shard=7))
    assert files_of(tmp_path / "by_1") == files_of(tmp_path / "by_5")
    assert {split: (e["records"], e["files"]) for split, e in head["splits"].items()} == {
        "train": (16, 3),
        "test": (4, 1),
    }
    built = Files(str(tmp_path / "by_1"))
    assert built.found() == Records(built.path) and built.columns("train") == FIELDS
    for split in built.splits():
        (_, _, old), (_, _, new) = data.parts(split, FIELDS)[0], built.parts(split, FIELDS)[0]
        assert new.class_names == old.class_names
        assert [new[i] | {"image": new[i]["image"].content} for i in range(len(new))] == [
            old[i] | {"image": old[i]["image"].content} for i in range(len(old))
        ]
    counted = []
    build(data, Order(tmp_path / "by_1", ("train", "test"), FIELDS, shard=7), counted.append)
    assert sum(counted) == 20
    with pytest.raises(UserError, match=r"another data set|other records"):
        build(Folder(str(photos)), Order(tmp_path / "by_1", ("train", "test"), FIELDS, shard=7))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match=r"holds 'letter\.txt' and no records"):
        build(data, Order(tmp_path / "mine", ("train",), FIELDS))


SLOW = """
import sys, time
from pathlib import Path
from unified_jax.data.folder import Folder, FolderSource
from unified_jax.runs.building import Order, build
read = FolderSource.__getitem__
FolderSource.__getitem__ = lambda self, index: (time.sleep(0.05), read(self, index))[1]
build(Folder(sys.argv[1], test=0.0), Order(Path(sys.argv[2]), ("train",), ("image", "caption"), 1, shard=4))
"""


def test_a_build_that_was_killed_goes_on(photos, tmp_path):
    """By SIGKILL within the second file; the folder becomes that of a build that was not killed."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(photos), str(cut)])
    deadline = time.monotonic() + 60
    while not (cut / "train" / "000000.array_record").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert len(files_of(cut)) < 5 and not (cut / "records.json").exists()
    with pytest.raises(UserError, match="are not finished: the same command goes on"):
        Records(str(cut)).parts("train", ("image",))
    for folder in (whole, cut):
        build(Folder(str(photos), test=0.0), Order(folder, ("train",), ("image", "caption"), shard=4))
    assert files_of(cut) == files_of(whole) and not list(cut.rglob(".part-*"))
    path = whole / "train" / "000001.array_record"
    path.write_bytes(path.read_bytes()[:-70_000])
    with pytest.raises(RunError, match="cannot be read"):
        Records(str(whole)).parts("train", ("image",))[0][2][5]
    path.unlink()
    with pytest.raises(UserError, match=r"000001\.array_record' is missing"):
        Records(str(whole)).parts("train", ("image",))


def test_a_source_that_changed_is_not_built_on(photos, tmp_path):
    """The digest of names and sizes is that of the first call."""
    shutil.copytree(photos, tmp_path / "photos")
    order = Order(tmp_path / "to", ("train",), ("image",), shard=4)
    build(Folder(str(tmp_path / "photos"), test=0.0), order)
    (tmp_path / "to" / "records.json").rename(tmp_path / "to" / "building.json")
    (tmp_path / "photos" / "cat" / "00.png").write_bytes(png(3, "L"))
    with pytest.raises(UserError, match=r"holds other records, or splits .*Did the source change"):
        build(Folder(str(tmp_path / "photos"), test=0.0), order)


def test_captions_that_changed_are_not_mixed_into_what_was_built(photos, tmp_path):
    """They are no files of the list: the same names and sizes, other words."""
    shutil.copytree(photos, tmp_path / "photos")
    order = Order(tmp_path / "to", ("train",), FIELDS, shard=4)
    build(Folder(str(tmp_path / "photos"), test=0.0), order)
    (tmp_path / "to" / "records.json").rename(tmp_path / "to" / "building.json")
    (tmp_path / "photos" / "cat" / "00.txt").write_text("picture 9\n")
    with pytest.raises(UserError, match=r"holds other records, or splits .*Did the source change"):
        build(Folder(str(tmp_path / "photos"), test=0.0), order)


def test_names_that_are_no_text_are_left_out_by_name(tmp_path):
    (tmp_path / "mine").mkdir()
    for i, name in enumerate((os.fsdecode(b"caf\xe9.png"), "a.png")):
        (tmp_path / "mine" / name).write_bytes(png(i)[:40] if i == 0 else png(i))
    order = Order(tmp_path / "to", ("train",), ("image",), skip=(Image(8, 8, 3),))
    assert build(Folder(str(tmp_path / "mine"), test=0.0), order)["splits"]["train"]["records"] == 1
    assert "caf" in (tmp_path / "to" / "skipped.txt").read_text()


def messy(root):
    """Pictures as people have them: every mode, two broken, one empty, one twice, one of another shape."""
    root.mkdir()
    for i, mode in enumerate(("RGB", "RGBA", "P", "L", "1", "LA", "I;16")):
        (root / f"{mode.replace(';', '')}.png").write_bytes(png(i + 1, mode if mode != "I;16" else "I;16"))
    (root / "broken_a.png").write_bytes(png(1)[:40])
    (root / "broken_b.png").write_bytes(b"no picture")
    (root / "empty.png").write_bytes(b"")
    (root / "wide.png").write_bytes(png(9, size=(16, 8)))
    (root / "RGB again.png").write_bytes((root / "RGB.png").read_bytes())
    (root / "gone.png").symlink_to(root / "nowhere.png")


def test_check_finds_every_fault_once_and_names_it(tmp_path):
    messy(tmp_path / "mine")
    data = Folder(str(tmp_path / "mine"), test=0.0)
    ((_, name, source),) = data.parts("train", ("image",))
    counted = []
    found = check(name, source, (Image(8, 8, 3),), 3, counted.append)
    assert (found.records, found.count, sum(counted)) == (13, 5, 13)
    said = "\n".join(found.lines())
    for words in (
        "broken_a.png", "broken_b.png", "empty.png", "is a link to nothing", "gone.png", "wide.png",
        "1 files are copies of others: RGB again.png = RGB.png",
    ):  # fmt: skip
        assert words in said, said
    order = Order(tmp_path / "to", ("train",), ("image",), skip=(Image(8, 8, 3),))
    assert build(data, order)["splits"]["train"]["records"] == 8
    told = (tmp_path / "to" / "skipped.txt").read_text()
    assert len(told.splitlines()) == 5
    (tmp_path / "to" / "records.json").rename(tmp_path / "to" / "building.json")  # as if killed just before the end
    assert build(data, order)["splits"]["train"]["records"] == 8
    assert (tmp_path / "to" / "skipped.txt").read_text() == told
    with pytest.raises(UserError, match="holds what another --skip left"):
        build(data, Order(tmp_path / "to", ("train",), ("image",)))


def run(capsys, *words):
    """The exit code and what a command prints."""
    code = run_command(main, list(words))
    said = capsys.readouterr()
    return code, said.out + said.err


RECIPE = """
import unified_jax as uj


def experiment(classes: int = 2):
    modality = uj.Image(8, 8, 3, patch=4)
    shown = (uj.Label("label", classes),)
    model = uj.Diffusion(uj.DiT(depth=1, width=16, heads=2), modality=modality, conditions=shown)
    return uj.Experiment(model=model, data=uj.Files())
"""


def test_the_commands_show_check_and_build(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = run(capsys, "show", str(photos), "--test", "0.2")
    assert code == 0
    for words in ("fields image, label, caption", "'train': 16 records", "8 wide, 8 high (16 RGB)", "9 cat, 7 dog"):
        assert words in said, said
    with Pillow.open("data-photos.png") as sheet:
        assert sheet.width > 500
    (tmp_path / "own.py").write_text(RECIPE)
    assert run(capsys, "check", "own.py", "--data.path", str(photos))[0] == 0
    for action in ("show", "check"):
        code, said = run(capsys, action, "own.py", "--data.path", str(photos), "--classes", "3")
        assert code == 2 and "set --classes 2" in said
    assert run(capsys, "show", "own.py", "--data.path", str(photos), "--count", "5", "--to", "s.png")[0] == 0
    (tmp_path / "mine").mkdir()
    messy(tmp_path / "mine" / "one")
    code, said = run(capsys, "check", "own.py", "--data.path", "mine", "--splits", "train", "--classes", "1")
    assert code == 1 and "cannot be used" in said and "--skip" in said
    code, said = run(capsys, "build", "own.py", "--data.path", str(photos), "--to", "built", "--skip")
    assert code == 0 and "photos (train 19, test 1 records)" in said
    assert run(capsys, "build", str(photos), "--to", "all")[0] == 0
    assert run(capsys, "check", "own.py", "--data.path", "all")[0] == 0
    for words, wrong in (
        (("build", str(photos)), "--to"), (("show", "nowhere/at/all"), "does not exist"), (("show",), "PATH or RECIPE"),
        (("chek", "x"), "did you mean check?"), (("check",), "RECIPE"),
    ):  # fmt: skip
        code, said = run(capsys, *words)
        assert code == 2 and wrong in said, said


def test_a_set_without_a_test_split_is_shown_without_one(photos):
    assert Folder(str(photos)).splits() == ("train", "test")
    lines = look(Folder(str(photos), test=0.0), ("label",)).lines
    assert [line for line in lines if line.startswith("split")] == ["split 'train': 20 records of photos"]


def test_a_film_is_shown_as_one_also_where_it_is_a_gif(tmp_path):
    frames = [Pillow.new("RGB", (12, 8), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert "video: films of 3 frames, 12 wide, 8 high" in "\n".join(look(Folder(str(tmp_path))).lines)


@dataclass(frozen=True)
class Cells:
    """A source whose records vary themselves."""

    name: str = "cells"

    def parts(self, split, fields):
        return ((1.0, self.name, self),)

    varies = True

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return {"label": index % 10}

    def vary(self, record, rng):
        return {"label": int(rng.integers(10))}


def test_a_source_varies_training_records_by_seed_step_and_slot_alone():
    """The same batch whatever was read before; nothing varies elsewhere."""

    def labels(step, vary=True, rows=None):
        made = Pipeline(Cells(), "train", (Label("label", 10),), 16, 3, rows, vary=vary).batch(step).arrays
        return made["label"].tolist()

    assert labels(5) == labels(5) != labels(6)
    assert labels(5, rows=np.arange(8, 16)) == labels(5)[8:]
    assert labels(0, vary=False) == [
        i % 10 for i in Pipeline(Cells(), "train", (Label("label", 10),), 16, 3).batch(0).ids
    ]
