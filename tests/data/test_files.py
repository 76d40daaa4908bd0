"""Folders, tables and tars as data sets: the same twenty pictures in every form, and what goes wrong with each."""

import datetime
import io
import json
import os
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

from unified_jax.data.files import Files
from unified_jax.data.folder import Folder
from unified_jax.data.listing import list_files
from unified_jax.data.mixture import Mixture, Part
from unified_jax.data.pipeline import Pipeline
from unified_jax.data.table import Table
from unified_jax.data.tars import Shards
from unified_jax.data.tfds import Tfds
from unified_jax.errors import RunError, UserError
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.reading import File
from unified_jax.modalities.text import Text
from unified_jax.runs.looking import look
from unified_jax.runs.resume import DATA, check_same_data

FIELDS = ("image", "label", "caption")
CLASSES = ("cat", "dog")


def picture(i):
    buffer = io.BytesIO()
    Pillow.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def caption(i):
    return f"picture {i}, café"


def only(data, split="train", fields=FIELDS):
    ((weight, _, source),) = data.parts(split, fields)
    assert weight == 1.0
    return source


def records(source):
    """What a source holds, with the content of files."""
    rows = [source[i] for i in range(len(source))]
    return [{k: v.content if isinstance(v, File) else v for k, v in row.items()} for row in rows]


def class_folders(root):
    for i in range(20):
        folder = root / "photos" / CLASSES[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02d}.png").write_bytes(picture(i))
        (folder / f"{i:02d}.txt").write_text(caption(i) + "\n", encoding="utf-8")
    (root / "photos" / ".hidden.png").write_bytes(b"")
    return Files(str(root / "photos"), test=0.0)


def metadata(root, ending):
    folder = root / f"hf_{ending}"
    folder.mkdir()
    rows = [{"file_name": f"{i:02d}.png", "text": caption(i), "label": CLASSES[i % 2]} for i in range(20)]
    for i in range(20):
        (folder / f"{i:02d}.png").write_bytes(picture(i))
    if ending == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif ending == "csv":
        lines = ["file_name,text,label", *(f'{r["file_name"]},"{r["text"]}",{r["label"]}' for r in rows)]
        (folder / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")
    return Files(str(folder), rename=(("caption", "text"),), test=0.0)


def rows():
    return [
        {"image": {"bytes": picture(i), "path": f"{i}.png"}, "label": i % 2, "caption": caption(i)} for i in range(20)
    ]


def hf_schema():
    features = {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}
    found = pa.Table.from_pylist(rows()).schema
    return found.with_metadata({b"huggingface": json.dumps({"info": features}).encode()})


def parquet(root):
    table = pa.Table.from_pylist(rows(), hf_schema())
    (root / "tables" / "data").mkdir(parents=True)
    for k in range(2):
        part = table.slice(10 * k, 10)
        pq.write_table(part, root / "tables" / "data" / f"train-0000{k}-of-00002.parquet", row_group_size=3)
    return Files(str(root / "tables"), test=0.0)


def saved(root):
    """As `datasets` saves a set with one split."""
    folder = root / "saved" / "train"
    folder.mkdir(parents=True)
    (root / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    table = pa.Table.from_pylist(rows(), hf_schema())
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file:
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    return Files(str(root / "saved"), test=0.0)


def csv(root):
    (root / "csv").mkdir()
    lines = ["path,what,words", *(f'{i:02d}.png,{CLASSES[i % 2]},"{caption(i)}"' for i in range(20))]
    for i in range(20):
        (root / "csv" / f"{i:02d}.png").write_bytes(picture(i))
    (root / "csv" / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    rename = (("image", "path"), ("label", "what"), ("caption", "words"))
    return Files(str(root / "csv" / "list.csv"), rename=rename, test=0.0)


def tars(root):
    (root / "shards").mkdir()
    for k in range(2):
        with tarfile.open(root / "shards" / f"train-{k:06d}.tar", "w") as tar:
            for i in range(10 * k, 10 * k + 10):
                says = json.dumps({"label": i % 2}).encode()
                for suffix, content in (("png", picture(i)), ("txt", caption(i).encode()), ("json", says)):
                    member = tarfile.TarInfo(f"{i:03d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return Files(str(root / "shards"), test=0.0)


FORMS = {
    "class folders": class_folders, "metadata.csv": lambda root: metadata(root, "csv"),
    "metadata.jsonl": lambda root: metadata(root, "jsonl"), "metadata.parquet": lambda root: metadata(root, "parquet"),
    "parquet": parquet, "saved by datasets": saved, "csv": csv, "tars": tars,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_records(form, tmp_path):
    """Fields, values and bytes; a set that is opened again is the same; its digest knows nothing of its place."""
    (tmp_path / "a").mkdir()
    data = FORMS[form](tmp_path / "a")
    source = only(data)
    found = sorted(records(source), key=lambda r: int(r["caption"].split(",")[0].split()[1]))
    assert found == [{"image": picture(i), "label": i % 2, "caption": caption(i)} for i in range(20)]
    assert set(FIELDS) <= {{b: a for a, b in data.rename}.get(c, c) for c in data.columns("train")}
    assert "train" in data.splits()
    if form != "tars":
        assert dict(source.class_names) == {"label": CLASSES}
    digest = source.digest
    os.rename(tmp_path / "a", tmp_path / "b")
    moved = type(data)(data.path.replace(f"{tmp_path}/a", f"{tmp_path}/b"), data.rename, test=0.0)
    assert only(moved).digest == digest
    batch = Pipeline(Mixture((Part(moved), Part(moved))), "train", (Image(8, 8, 3), Label("label", 2)), 4, 0).batch(0)
    assert batch.arrays["image"].shape == (4, 8, 8, 3)


def test_a_share_of_a_set_without_splits_is_held_out(tmp_path):
    """The two splits share no record and miss none; folders and files that are named for splits win."""
    class_folders(tmp_path)
    data = Folder(str(tmp_path / "photos"), test=0.2)
    train, test = (records(only(data, split)) for split in ("train", "test"))
    assert (len(train), len(test)) == (16, 4)
    assert {r["image"] for r in train}.isdisjoint(r["image"] for r in test)
    with pytest.raises(UserError, match="no split 'held_out'; it has: train, test"):
        only(data, "held_out")
    split = tmp_path / "split"
    split.mkdir()
    os.rename(tmp_path / "photos", split / "train")
    (split / "validation" / "cat").mkdir(parents=True)
    (split / "validation" / "cat" / "x.png").write_bytes(picture(1))
    data = Folder(str(split))
    assert data.splits() == ("train", "validation", "test")
    assert [len(only(data, s, ("image", "label"))) for s in data.splits()] == [19, 1, 1]
    assert dict(only(data, "validation", ("image", "label")).class_names) == {"label": CLASSES}
    (split / "other").mkdir()
    (split / "other" / "y.png").write_bytes(picture(2))
    assert [len(only(data, s, ("image",))) for s in data.splits()] == [19, 1, 1]  # what is beside them is in no split
    (split / "metadata.csv").write_text("file_name,a\ntrain/cat/00.png,1\nvalidation/cat/x.png,2\nother/y.png,3\n")
    assert [[r["a"] for r in records(only(data, s, ("a",)))] for s in ("train", "validation")] == [[1], [2]]


def test_several_kinds_of_a_name_are_one_record(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
        (tmp_path / f"{i}.wav").write_bytes(b"sound %d" % i)
    source = only(Folder(str(tmp_path), test=0.0), fields=("image", "audio"))
    assert [(r["image"], r["audio"]) for r in records(source)] == [(picture(i), b"sound %d" % i) for i in range(3)]
    (tmp_path / "1.wav").unlink()
    with pytest.raises(UserError, match=r"record 1: '1\.png' has no file of audio beside it"):
        records(only(Folder(str(tmp_path), test=0.0), fields=("image", "audio")))


def test_a_second_file_of_a_row_is_a_field_of_its_own(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,depth_file_name\na.png,deep/a.png\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "deep" / "a.png").write_bytes(picture(2))
    assert records(only(Folder(str(tmp_path)), fields=("image", "depth"))) == [
        {"image": picture(1), "depth": picture(2)}
    ]


def test_faults_of_folders_are_named(tmp_path):
    data = class_folders(tmp_path).found()
    root = tmp_path / "photos"
    for fields, words in {
        ("depth",): "'depth' .* no column of a folder",
        ("audio",): "no audio files .*; of other kinds it has 20 image",
    }.items():
        with pytest.raises(UserError, match=words):
            only(data, fields=fields)
    with pytest.raises(UserError, match="no split 'dev'; it has: train"):
        only(data, "dev")
    source = only(data)
    (root / "cat" / "00.png").write_bytes(b"shorter")
    with pytest.raises(RunError, match=r"00\.png' has 7 bytes, \d+ when it was listed"):
        source[0]
    (root / "cat" / "02.png").unlink()
    (root / "cat" / "02.png").symlink_to(root / "nowhere")
    with pytest.raises(RunError, match=r"02\.png' is gone"):
        source[1]
    with pytest.raises(RunError, match="is a link to nothing"):
        only(data)[1]
    (root / "cat" / "04.txt").unlink()
    with pytest.raises(UserError, match=r"'cat/04\.png' has no caption; expected a text file '04\.txt'"):
        source[2]
    (root / "cat" / "04.TXT").write_text("as a camera names it")
    assert source[2]["caption"] == "as a camera names it"
    (root / "Cat").mkdir()
    (root / "Cat" / "1.png").write_bytes(picture(1))
    with pytest.raises(UserError, match="'Cat' and 'cat' differ by case alone"):
        only(data)
    (root / "loose.png").write_bytes(picture(1))
    with pytest.raises(UserError, match="there are files in no class folder"):
        only(data)
    for path, words in ((tmp_path / "none", "does not exist"), (root / "loose.png", "is no data set")):
        with pytest.raises(UserError, match=words):
            only(Files(str(path)))
    with pytest.raises(UserError, match=r"--data.path"):
        only(Files())


def test_broken_and_odd_names_are_files_too(tmp_path):
    """A name that is no UTF-8, a link to a folder above, an upper-case suffix."""
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(picture(1))
    (tmp_path / "LOUD.PNG").write_bytes(picture(2))
    (tmp_path / "loop").symlink_to(tmp_path)
    source = only(Folder(str(tmp_path), test=0.0), fields=("image",))
    assert [r["image"] for r in records(source)] == [picture(2), picture(1)]


def test_a_run_among_its_own_data_is_none_of_it(tmp_path, monkeypatch):
    """`cd photos; unified-jax train images --data.path .`: its previews are no data, and a resume finds the same."""
    class_folders(tmp_path)
    root = tmp_path / "photos"
    first = list_files(root)
    rows = np.arange(len(first))
    run = root / "runs" / "images"
    (run / "previews").mkdir(parents=True)
    for name in ("config.json", "environment.json", "previews/step_0000100.png"):
        (run / name).write_bytes(picture(1))
    monkeypatch.setattr("unified_jax.data.listing.KEPT", 5)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    again = list_files(root)
    assert again.digest(np.arange(len(again))) == first.digest(rows)
    (run / "config.json").unlink()  # not a run any more: what is below it counts
    assert len(list_files(root)) == len(first) + 2
    assert len(list_files(run)) == 2  # a run that is asked for


def test_a_list_of_many_files_is_kept_until_a_folder_changes(tmp_path, monkeypatch):
    monkeypatch.setattr("unified_jax.data.listing.KEPT", 5)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    class_folders(tmp_path)
    first = list_files(tmp_path / "photos")
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 1
    monkeypatch.setattr("unified_jax.data.listing._scan", None)
    again = list_files(tmp_path / "photos")
    rows = np.arange(len(first))
    assert [again.name(i) for i in range(len(rows))] == [first.name(i) for i in range(len(rows))]
    assert again.digest(rows) == first.digest(rows)
    (tmp_path / "photos" / "cat" / "new.png").write_bytes(picture(1))
    with pytest.raises(TypeError):  # it would be listed again
        list_files(tmp_path / "photos")


def test_faults_of_tables_are_named(tmp_path):
    parquet(tmp_path)
    data = Table(str(tmp_path / "tables"), test=0.0)
    with pytest.raises(UserError, match=r"column 'sound' .* is missing; it has image, label, caption"):
        only(data, fields=("sound",))
    with pytest.raises(UserError, match="no split 'test'"):
        only(data, "test")
    path = tmp_path / "tables" / "data" / "train-00001-of-00002.parquet"
    source = only(data)
    content = path.read_bytes()
    path.write_bytes(content[:200] + b"\0" * 200 + content[400:])
    with pytest.raises((RunError, UserError), match=r"train-00001|cannot be read"):
        records(source)
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        only(data)
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"caption": "a", "label": "x"}\n{"caption": null, "label": "y"}\n')
    with pytest.raises(UserError, match=r"record 1 \(row 1 of split 'train'\): column 'caption' holds no value"):
        records(only(Table(str(odd), test=0.0), fields=("caption", "label")))
    odd.write_text('{"caption": "a"\n')
    with pytest.raises(UserError, match="cannot be read as a table"):
        only(Table(str(odd), test=0.0), fields=("caption",))
    with pytest.raises(UserError, match="several formats"):
        only(Table(str(tmp_path)), fields=("caption",))


def test_a_wrong_number_of_classes_is_refused_with_the_flag(tmp_path):
    class_folders(tmp_path)
    with pytest.raises(UserError, match=r"has 2 classes of 'label' \(cat, dog\), the model has 9: set --classes 2"):
        Pipeline(Folder(str(tmp_path / "photos")), "train", (Image(8, 8, 3), Label("label", 9)), 2, 0)


def test_an_index_lies_beside_a_tar_until_it_changes(tmp_path, monkeypatch):
    tars(tmp_path)
    data = Shards(str(tmp_path / "shards"), test=0.0)
    first = records(only(data, fields=("image",)))
    assert sorted(p.name for p in (tmp_path / "shards").glob("*.index")) == [
        "train-000000.tar.index", "train-000001.tar.index",
    ]  # fmt: skip
    path = tmp_path / "shards" / "train-000001.tar"
    content = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("unified_jax.data.tar_index.scan_tar", None)
        source = only(data, fields=("image",))
        assert records(source) == first
        path.write_bytes(content[: len(content) // 3])
        with pytest.raises(RunError, match="cut off within '01"):
            records(source)
    with pytest.raises(UserError, match=r"cut off|cannot be read as a tar"):
        only(data)
    os.rename(path, path.with_suffix(".tar.gz"))
    with pytest.raises(UserError, match="compressed, which allows no random access"):
        only(data)
    path.with_suffix(".tar.gz").unlink()
    with pytest.raises(UserError, match=r"'depth' .* is not in its first record; it has .*png"):
        only(data, fields=("depth",))


def test_a_prepared_set_of_tfds_is_found_by_its_folder(tmp_path):
    folder = tmp_path / "uj_set" / "1.0.0"
    folder.mkdir(parents=True)
    for name in ("features.json", "dataset_info.json"):
        (folder / name).write_text("{}")
    assert Files(str(folder)).found() == Tfds("uj_set/1.0.0", str(tmp_path))


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_quote_that_is_not_closed_is_named_and_loses_no_row(tmp_path, ending):
    """The reader would take all lines after it for one cell."""
    comma = "," if ending == "csv" else "\t"
    lines = [f"{i}{comma}caption {i}" for i in range(10)]
    lines[2] = f'2{comma}a 5" nail'  # not at a cell's start: itself
    lines[3] = f'3{comma}"two\nlines, and ""words"""'
    path = tmp_path / f"set.{ending}"
    path.write_text("\n".join([f"place{comma}caption", *lines]))
    assert len(only(Table(str(path), test=0.0), fields=("caption",))) == 10
    lines[5] = f'5{comma}"the house, seen from afar'
    path.write_text("\n".join([f"place{comma}caption", *lines]))
    with pytest.raises(UserError, match=r"line 8 opens a quote that is not closed"):
        only(Table(str(path), test=0.0), fields=("caption",))


def test_a_table_in_another_encoding_names_its_line(tmp_path):
    """The reader would take the column for the bytes of files."""
    path = tmp_path / "set.csv"
    path.write_bytes("place,caption\n0,a house\n1,un café rouge\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"set.csv' cannot be read as a table: line 3 is not UTF-8"):
        only(Table(str(path), test=0.0), fields=("caption",))
    path.write_text("place,caption\n0,a house\n1,un café rouge\n", encoding="utf-8-sig")
    assert len(only(Table(str(path), test=0.0), fields=("caption",))) == 2


def test_two_tables_of_one_folders_files_are_refused(tmp_path):
    data = metadata(tmp_path, "csv")
    (tmp_path / "hf_csv" / "metadata.jsonl").write_text('{"file_name": "00.png", "text": "again"}')
    with pytest.raises(UserError, match=r"two tables of its files, metadata\.(csv|jsonl) and"):
        only(data, fields=("image",))


def test_columns_that_no_field_can_have_are_left_out(tmp_path):
    """img2dataset's tables have a column error_message without any value; others have dates."""
    whole = pa.table({"caption": ["a", "b"], "error_message": pa.nulls(2), "taken": [datetime.date(2024, 1, 2)] * 2})
    pq.write_table(whole, tmp_path / "set.parquet")
    data = Table(str(tmp_path / "set.parquet"), test=0.0)
    assert data.columns("train") == ("caption",)
    assert look(data).lines[0].endswith("fields caption")
    with pytest.raises(UserError, match="column 'error_message' holds no value"):
        _ = only(data, fields=("error_message",))[0]


def test_pictures_beside_tables_are_not_taken_for_the_set(tmp_path):
    data = parquet(tmp_path)
    hidden = tmp_path / "tables" / ".cache"
    hidden.mkdir()
    (hidden / "x.png").write_bytes(picture(1))
    assert len(only(data)) == 20
    (tmp_path / "tables" / "logo.png").write_bytes(picture(1))
    with pytest.raises(UserError, match=r"holds tables \(data/train.*\) and files .* \(logo\.png\); name the folder"):
        only(data)


def test_a_kept_list_that_is_no_longer_true_is_made_again_at_the_next_start(tmp_path, monkeypatch):
    """Writing into a file does not change its folder."""
    monkeypatch.setattr("unified_jax.data.listing.KEPT", 5)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = class_folders(tmp_path)
    only(data)
    (tmp_path / "photos" / "cat" / "00.png").write_bytes(picture(1) + b"more")
    with pytest.raises(RunError, match="the next start lists it again"):
        _ = only(data)[0]["image"]
    assert only(data)[0]["image"].content == picture(1) + b"more"


def test_captions_that_changed_are_told_when_a_run_is_resumed(tmp_path):
    """They are files of their own, which the digest of the pictures does not hold."""
    data, texts = class_folders(tmp_path), Text(length=40)

    def described(*more):
        return Pipeline(data, "train", (Image(8, 8, patch=1), *more), 4, 0).described()

    before, alone = described(texts), described()
    assert "beside" not in alone[0]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / DATA).write_text(json.dumps({"parts": before}))
    check_same_data(described(texts), tmp_path / "run")
    (tmp_path / "photos" / "cat" / "04.txt").write_text("another caption")
    assert described() == alone
    with pytest.raises(UserError, match=r"names or sizes of the captions, .*beside the records of photos, changed"):
        check_same_data(described(texts), tmp_path / "run")
    old = [{name: value for name, value in before[0].items() if name != "beside"}]
    (tmp_path / "run" / DATA).write_text(json.dumps({"parts": old}))
    check_same_data(described(texts), tmp_path / "run")  # an earlier version did not look at them
