"""Public sets, built from stand-ins of their originals and read back as recipes read them."""

import gzip
import hashlib
import io
import json
import struct
import tarfile
import wave

import numpy as np
import pytest
from PIL import Image as Pillow

from unified_jax.cli.datasets import get
from unified_jax.data.pipeline import Pipeline
from unified_jax.data.public import SETS, emoji as emoji_set, fashion_mnist as fashion
from unified_jax.data.public.turntable import ARCHIVE, caption
from unified_jax.data.tfds import Tfds
from unified_jax.errors import UserError
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label

GREY = (np.arange(11 * 784) % 251).astype(np.uint8).reshape(11, 28, 28)
LABELS = (np.arange(11) % 10).astype(np.uint8)


def write_idx(folder, part, pictures, labels):
    for kind, magic, values in (("images-idx3", 0x803, pictures), ("labels-idx1", 0x801, labels)):
        head = struct.pack(f">{1 + values.ndim}I", magic, *values.shape)
        (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))


def write_emoji(folder):
    """Twelve emoji in sheets of 4 x 3: a flat colour each, the right half transparent; and a skin tone without name."""
    entries, names, words = [], {}, {}
    sheets = {vendor: Pillow.new("RGBA", (4 * 66, 3 * 66)) for vendor in ("google", "twitter")}
    for i in range(12):
        code = f"{0x1F600 + i:X}" + ("-FE0F" if i == 3 else "")
        letters = "".join(chr(int(part, 16)) for part in code.split("-"))
        x, y = i % 4, i // 4
        has = {"has_img_google": True, "has_img_twitter": i != 5}
        entries.append({"unified": code, "sheet_x": x, "sheet_y": y} | has)
        if i < 11:
            names[letters] = {"name": f"flag: no {i}", "group": "Flags" if i else "Objects"}
            words[letters] = [f"word_{k}_{i}" for k in range(14)]
        for blue, sheet in zip((10, 20), sheets.values(), strict=True):
            sheet.paste((20 * i, 7, blue, 255), (66 * x + 1, 66 * y + 1, 66 * x + 33, 66 * y + 65))
    for name, content in ((emoji_set.DATA, entries), (emoji_set.NAMES, names), (emoji_set.WORDS, words)):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    for vendor, sheet in sheets.items():
        sheet.save(folder / emoji_set.sheet(vendor))


def write_tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"top/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def sound(values):
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(np.asarray(values, "<i2").tobytes())
    return file.getvalue()


def photo(level):
    file = io.BytesIO()
    Pillow.new("RGB", (100, 100), (level, level, level)).save(file, "JPEG", quality=95)
    return file.getvalue()


def by_name(name):
    return next(one for one in SETS if one.name == name)


def records(data_dir, name, split):
    data = Tfds(name, str(data_dir))
    ((_, _, source),) = data.parts(split, data.columns(split))
    return [source[i] for i in range(len(source))]


def test_fashion_mnist_is_built_from_its_idx_files_and_read_by_the_pipeline(tmp_path, capsys):
    for part, sign in (("train", 1), ("t10k", -1)):
        write_idx(tmp_path, part, GREY[::sign], LABELS[::sign])
    flags = ["fashion-mnist", "--data-dir", str(tmp_path / "sets"), "--source", tmp_path.as_uri()]
    with pytest.raises(UserError, match="bytes, expected 26421880; use the published file, or pass --unverified"):
        get.main(flags)
    get.main([*flags, "--unverified"])
    said = capsys.readouterr().out
    assert "licence MIT: https://" in said
    assert "t10k-labels-idx1-ubyte.gz: not verified: its SHA-256 is not the published one" in said
    assert "22 records" in said
    for split in ("train", "test"):
        found = records(tmp_path / "sets", "fashion_mnist", split)
        assert sorted((r["label"], r["image"].tobytes()) for r in found) == sorted(
            (int(label), picture.tobytes()) for label, picture in zip(LABELS, GREY, strict=True)
        )
    data = Tfds("fashion_mnist", str(tmp_path / "sets"))
    batch = Pipeline(data, "train", (Image(28, 28, 1, 4), Label("label", 10, fashion.NAMES)), 4, 0).batch(0).arrays
    assert batch["image"].shape == (4, 28, 28, 1)
    source = json.loads((tmp_path / "sets/fashion_mnist/3.0.1/SOURCE.json").read_text())
    file = tmp_path / source["files"][0]["file"]
    assert source["files"][0] == {
        "file": "train-images-idx3-ubyte.gz",
        "address": str(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "bytes": file.stat().st_size,
        "verified": False,
    }
    with pytest.raises(UserError, match=r"3\.0\.1' exists already"):
        get.main([*flags, "--unverified"])
    assert len(records(tmp_path / "sets", "fashion_mnist", "train")) == 11  # the older set is as it was


def test_fashion_mnist_is_the_set_of_tfds_in_its_order(tmp_path, shared_data):
    from tensorflow_datasets.core.hashing import Hasher

    hashed = Hasher("test")
    order = sorted(range(10_000), key=lambda i: hashed.hash_key(i))  # key of each record of the set
    ((_, _, source),) = Tfds("fashion_mnist", str(shared_data)).parts("test", ("image", "label"))
    expected = {key: source[place] for place, key in enumerate(order) if key < 200}
    pictures = np.stack([expected[i]["image"][..., 0] for i in range(200)])
    labels = np.array([expected[i]["label"] for i in range(200)], np.uint8)
    for part in ("train", "t10k"):
        write_idx(tmp_path, part, pictures, labels)
    get.main(["fashion", "--data-dir", str(tmp_path / "sets"), "--source", str(tmp_path), "--unverified"])
    for found, wanted in zip(records(tmp_path / "sets", "fashion_mnist", "test"), expected.values(), strict=True):
        assert found["label"] == wanted["label"]
        assert (found["image"] == wanted["image"]).all()


def test_emoji_are_cut_from_the_sheets_and_no_caption_is_in_both_splits(tmp_path):
    write_emoji(tmp_path)
    get.main(["emoji", "--data-dir", str(tmp_path / "sets"), "--source", str(tmp_path), "--unverified"])
    train, test = (records(tmp_path / "sets", "uj_emoji", split) for split in ("train", "test"))
    assert len(train) + len(test) == 21  # eleven with a name, one of them without a picture of Twitter's
    assert len({r["caption"] for r in test}) == 1
    assert not {r["caption"] for r in train} & {r["caption"] for r in test}
    for record in train + test:
        number = int(record["caption"].decode().removeprefix("flag no "))
        blue = {b"noto": 10, b"twemoji": 20}[record["style"]]
        assert (record["image"][:, :32] == (20 * number, 7, blue)).all()
        assert (record["image"][:, 32:] == 255).all()
        assert record["keywords"].decode() == ", ".join(f"word {k} {number}" for k in range(12))
        assert emoji_set.GROUPS[record["label"]] == ("Flags" if number else "Objects")


def test_spoken_digits_are_split_by_the_number_of_the_recording(tmp_path):
    tracks = {f"{digit}_theo_{n}": list(range(-digit, 9 + n)) for digit in (0, 7) for n in (0, 4, 5, 12)}
    path = tmp_path / by_name("uj_spoken_digit").originals[0].file
    write_tar(path, {"README.md": b"-"} | {f"recordings/{key}.wav": sound(v) for key, v in tracks.items()})
    get.main(["spoken_digit", "--data-dir", str(tmp_path / "sets"), "--source", path.as_uri(), "--unverified"])
    for split, numbers in (("test", (0, 4)), ("train", (5, 12))):
        found = {(r["label"], tuple(r["audio"])) for r in records(tmp_path / "sets", "uj_spoken_digit", split)}
        assert found == {(digit, tuple(tracks[f"{digit}_theo_{n}"])) for digit in (0, 7) for n in numbers}


def test_turntable_films_run_in_order_through_one_turn(tmp_path):
    classes = ("Apple 6", "Apple Red Yellow 2", "Cherry Wax Black 1", "Tomato Cherry Red 1")
    files = {"Training/Banana 1/r0_0_100.jpg": photo(0), "Training/Apple worm 1/r0_0_100.jpg": photo(0)}
    for name in classes:
        for i in range(32):  # as the authors divide them: every fourth is in Test
            files[f"{'Test' if i % 4 == 3 else 'Training'}/{name}/r1_{i}_100.jpg"] = photo(6 * i)
    write_tar(tmp_path / ARCHIVE, files)
    get.main(["turntable", "--data-dir", str(tmp_path / "sets"), "--source", str(tmp_path)])
    train, test = (records(tmp_path / "sets", "uj_turntable", split) for split in ("train", "test"))
    said = [caption(name) for name in classes]
    assert said[1:3] == [
        f"a {fruit}, rotating on a white background" for fruit in ("red yellow apple", "black wax cherry")
    ]
    assert sorted(r["caption"].decode() for r in train) == sorted(said[:3])
    assert [(r["caption"].decode(), r["label"]) for r in test] == [(said[3], 2)]
    for record in train + test:
        levels = np.array([frame.mean() for frame in record["video"]])
        assert record["video"].shape == (16, 64, 64, 3)
        assert np.abs(levels - 12 * np.arange(16)).max() < 2


def test_shakespeare_is_divided_as_tfds_divides_it(tmp_path):
    text = "".join(chr(97 + i % 26) for i in range(1000))
    (tmp_path / "input.txt").write_text(text)
    (tmp_path / "sets/tiny_shakespeare/incomplete.ABC_1.0.0").mkdir(parents=True)  # a build was killed
    get.main(["tiny_shakespeare", "--data-dir", str(tmp_path / "sets"), "--source", str(tmp_path), "--unverified"])
    parts = {split: records(tmp_path / "sets", "tiny_shakespeare", split) for split in ("train", "validation", "test")}
    found = {split: record["text"].decode() for split, (record,) in parts.items()}
    assert [path.name for path in (tmp_path / "sets/tiny_shakespeare").iterdir()] == ["1.0.0"]
    assert found == {"train": text[:900], "validation": text[900:950], "test": text[950:]}


def test_the_features_are_those_of_the_sets_that_recipes_were_written_for(tmp_path, shared_data):
    import tensorflow_datasets as tfds

    for one in SETS:
        tfds.features.FeaturesDict(one.features()).save_config(tmp_path)
        written = (shared_data / one.name / one.version / "features.json").read_text()
        assert json.loads((tmp_path / "features.json").read_text()) == json.loads(written), one.name
