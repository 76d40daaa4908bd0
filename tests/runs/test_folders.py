"""Folders of results: one request each, whole or not at all, and nothing of anybody's is lost."""

import contextlib
import json
import os

import pytest

from unified_jax.errors import RunError, UserError
from unified_jax.runs.folders import check_folder, make_folder, new_files, new_folder


def draw(out, count, told=True, **request):
    """What sample.py does to `out`; without `told` as it did before it named its folders."""
    check_folder(out)
    with new_folder(out) as folder:
        (folder / "images").mkdir()
        for i in range(count):
            (folder / "images" / f"{i:06d}.png").write_text(f"{count}")
        folders = {"folders": ["images"]} if told else {}
        (folder / "request.json").write_text(json.dumps({"plan": {}, "count": count} | folders | request))


def holds(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def images(count):
    return [*(f"images/{i:06d}.png" for i in range(count)), "request.json"]


def test_a_second_request_has_the_folder_to_itself_and_the_first_is_kept_whole(tmp_path):
    for count in (4, 2, 3):
        draw(tmp_path / "out", count)
    assert [holds(tmp_path / name) for name in ("out", "out.1", "out.2")] == [images(3), images(4), images(2)]
    draw(tmp_path / "out", 3)
    assert sorted(os.listdir(tmp_path)) == ["out", "out.1", "out.2"]  # the same again takes its own place


def test_a_request_that_begins_later_and_a_field_with_a_hyphen_are_ours(tmp_path):
    def later(count):
        check_folder(tmp_path / "out")
        with new_folder(tmp_path / "out") as folder:
            (folder / "my-image").mkdir()
            for i in range(4, 4 + count):
                (folder / "my-image" / f"{i:06d}.png").write_text("")
            told = {"plan": {}, "count": count, "first": 4, "folders": ["my-image"]}
            (folder / "request.json").write_text(json.dumps(told))

    for count in (2, 3):
        later(count)
    assert [len(holds(tmp_path / name)) for name in ("out", "out.1")] == [4, 3]


def test_a_folder_where_requests_once_mixed_is_moved_aside(tmp_path):
    draw(tmp_path / "out", 2, told=False)
    (tmp_path / "out" / "images" / "000003.png").write_text("of a request before")
    draw(tmp_path / "out", 1)
    assert (holds(tmp_path / "out"), len(holds(tmp_path / "out.1"))) == (images(1), 4)


@pytest.mark.parametrize("name", ["notes.txt", "images/000002.png", "images/mine.png", "faces/000000.png", "a/b/c"])
def test_files_of_others_are_refused_by_name_and_left_alone(tmp_path, name):
    draw(tmp_path / "out", 2)
    (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "out" / name).write_text("mine")
    before = holds(tmp_path)
    with pytest.raises(UserError, match=f"holds '{name}', which `unified-jax sample` did not write"):
        draw(tmp_path / "out", 1)
    with pytest.raises(RunError, match="did not write"), new_folder(tmp_path / "out"):
        pass  # it came while the samples were drawn
    assert holds(tmp_path) == before


def test_a_folder_without_a_request_of_ours_is_not_ours(tmp_path):
    for request in (None, "[]", '{"count": 3}', "{"):
        folder = tmp_path / str(request and len(request))
        folder.mkdir()
        (folder / "sheet.png").write_text("mine")
        if request:
            (folder / "request.json").write_text(request)
        with pytest.raises(UserError, match="did not write"):
            draw(folder, 1)


def test_what_ends_in_the_middle_leaves_the_old(tmp_path, monkeypatch):
    draw(tmp_path / "out", 4)
    with contextlib.suppress(KeyboardInterrupt), new_folder(tmp_path / "out") as folder:
        (folder / "sheet.png").write_text("half")
        assert holds(tmp_path / "out") == images(4)
        raise KeyboardInterrupt
    rename, calls = os.rename, []

    def full(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(28, "No space left on device", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        draw(tmp_path / "out", 1)
    assert os.listdir(tmp_path) == ["out"] and holds(tmp_path / "out") == images(4)


def test_places_that_cannot_be_replaced_as_a_whole(tmp_path, monkeypatch):
    """The current directory is written inside while it is empty; a link stays a link."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    draw(tmp_path / "here", 2)
    assert holds(tmp_path / "here") == images(2) and os.listdir() == os.listdir(tmp_path / "here")
    with pytest.raises(UserError, match="cannot be moved aside"):
        draw(tmp_path / "here", 2)
    (tmp_path / "link").symlink_to(tmp_path / "there")
    draw(tmp_path / "link", 1)
    draw(tmp_path / "link", 2)
    assert (tmp_path / "link").is_symlink() and holds(tmp_path / "there") == images(2)


def test_places_that_cannot_be_written_are_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for bad in ("file", "file/x", "loop", "x" * 300, "/proc/nothing"):
        for check in (check_folder, make_folder):
            with pytest.raises(UserError, match="cannot be written"):
                check(tmp_path / bad)
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


def test_files_among_others_replace_those_of_the_request_before(tmp_path):
    for name in ("a_old.png", "a_new.png", "a.json", "config.json"):
        (tmp_path / name).write_text("old")
    with pytest.raises(ZeroDivisionError), new_files(tmp_path, ["a_old.png"], "a.json") as folder:
        (folder / "a_new.png").write_text(str(1 / 0))
    assert {path.read_text() for path in tmp_path.iterdir()} == {"old"}
    with new_files(tmp_path, ["a_old.png", "a_new.png", "a_gone.png"], "a.json") as folder:
        (folder / "a_new.png").write_text("new")
        (folder / "a.json").write_text("new")
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"a_new.png": "new", "a.json": "new", "config.json": "old"}
