"""Fetching originals: a server of the test that cuts, refuses and changes files; nothing that arrived is lost."""

import dataclasses
import hashlib
import http.server
import io
import shutil
import threading
from pathlib import Path

import pytest

from unified_jax.cli.datasets import get
from unified_jax.data.public import SETS, Original, fetch as fetching
from unified_jax.data.public.base import unreadable
from unified_jax.data.public.build import build
from unified_jax.data.public.fetch import Fetched, fetch
from unified_jax.errors import RunError, UserError

TEXT = bytes(range(256)) * 400
DIGEST = hashlib.sha256(TEXT).hexdigest()
SHAKESPEARE = next(one for one in SETS if one.name == "tiny_shakespeare")


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves TEXT as any /FILE, or its first 1,000 bytes in chunks; notes what was asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        place, self.close_connection = self.server, True
        asked = self.headers.get("Range", "")
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and place.ranges else 0
        place.asked.append(asked)
        if place.code or begin >= len(TEXT):
            self.send_error(place.code or 416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(TEXT) - 1}/{len(TEXT)}")
        if place.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n" % (1000, TEXT[:1000]) + (b"" if place.cuts else b"0\r\n\r\n"))
            place.cuts = []
            return
        self.send_header("Content-Length", str(len(TEXT) - begin))
        self.end_headers()
        end = place.cuts.pop(0) if place.cuts else len(TEXT)
        place.sent += max(end - begin, 0)
        self.wfile.write(TEXT[begin:end])

    def log_message(self, *arguments):
        """Nothing."""


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as place:
        place.cuts, place.asked, place.ranges, place.code, place.sent, place.chunked = [], [], True, 0, 0, False
        threading.Thread(target=place.serve_forever, args=(0.01,), daemon=True).start()
        place.address = f"http://127.0.0.1:{place.server_port}"
        yield place
        place.shutdown()


def one_file(address, sha256=DIGEST):
    return dataclasses.replace(SHAKESPEARE, originals=(Original("input.txt", address, sha256, len(TEXT)),))


def fetched(one, folder, source="", unverified=False, seen=None):
    return fetch(one, folder, source, unverified, lambda *state: None if seen is None else seen.append(state))


def test_a_cut_download_goes_on_where_it_ended(server, tmp_path):
    server.cuts, seen = [30_000, 70_000], []
    found = fetched(one_file(f"{server.address}/input.txt"), tmp_path, seen=seen)["input.txt"]
    assert found.path.read_bytes() == TEXT
    assert found.verified
    assert found.address == f"{server.address}/input.txt"
    assert server.asked == ["", "bytes=30000-", "bytes=70000-"]
    assert server.sent == len(TEXT)
    assert seen[-1] == ("input.txt", len(TEXT), len(TEXT))
    assert [path.name for path in tmp_path.iterdir()] == ["input.txt"]
    fetched(one_file(f"{server.address}/input.txt"), tmp_path)
    assert len(server.asked) == 3  # what is there is not fetched again


def test_a_later_command_goes_on_too(server, tmp_path):
    server.cuts = [30_000, 30_000]
    with pytest.raises(RunError, match=r"ended after 30,000 of 102,400 bytes; run the command again: it goes on from"):
        fetched(one_file(f"{server.address}/input.txt"), tmp_path)
    assert (tmp_path / "input.txt.part").read_bytes() == TEXT[:30_000]
    assert fetched(one_file(f"{server.address}/input.txt"), tmp_path)["input.txt"].verified
    assert server.sent == len(TEXT)


def test_a_server_without_ranges_sends_the_file_anew(server, tmp_path):
    server.ranges = False
    (tmp_path / "input.txt.part").write_bytes(b"old" * 1000)
    assert fetched(one_file(f"{server.address}/input.txt"), tmp_path)["input.txt"].path.read_bytes() == TEXT
    assert server.asked == ["bytes=3000-"]


@pytest.mark.parametrize("there", [TEXT, TEXT + b"more"], ids=["all", "too much"])
def test_a_part_that_has_nothing_to_follow_is_complete_or_replaced(server, tmp_path, there):
    (tmp_path / "input.txt.part").write_bytes(there)
    assert fetched(one_file(f"{server.address}/input.txt"), tmp_path)["input.txt"].path.read_bytes() == TEXT
    assert server.sent == (0 if there == TEXT else len(TEXT))


def test_an_answer_without_a_length_ends_where_it_says(server, tmp_path):
    server.chunked, server.ranges, server.cuts = True, False, [1]
    one = one_file(f"{server.address}/input.txt")
    with pytest.raises(RunError, match=r"has 1000 bytes, expected 102400; it is kept as input\.txt\.wrong"):
        fetched(one, tmp_path)
    assert len(server.asked) == 2  # the first answer broke off within its chunks


def test_another_checksum_is_refused_and_the_file_put_aside(server, tmp_path):
    other = one_file(f"{server.address}/input.txt", "0" * 64)
    with pytest.raises(RunError, match=r"SHA-256 [0-9a-f]{64}, expected 0{64}; it is kept as input\.txt\.wrong"):
        fetched(other, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["input.txt.wrong"]
    assert not fetched(other, tmp_path, unverified=True)["input.txt"].verified
    with pytest.raises(UserError, match="remove it and run the command again"):
        fetched(other, tmp_path)
    assert (tmp_path / "input.txt").read_bytes() == TEXT


def test_a_file_without_a_known_checksum_is_taken_and_not_called_verified(server, tmp_path):
    found = fetched(one_file(f"{server.address}/input.txt", ""), tmp_path)["input.txt"]
    assert not found.verified
    assert found.sha256 == DIGEST


def test_refusals_and_unreachable_servers_are_one_sentence(server, tmp_path):
    one = one_file(f"{server.address}/input.txt")
    server.code = 404
    with pytest.raises(RunError, match=r"answers 404 \(Not Found\); fetch it on .* as FOLDER/input\.txt and pass --so"):
        fetched(one, tmp_path)
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        address = f"http://127.0.0.1:{closed.server_port}/input.txt"
    with pytest.raises(RunError, match=r"cannot be reached \(.*refused.*\); fetch it on a machine that can"):
        fetched(one_file(address), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_what_arrived(server, tmp_path, monkeypatch):
    (tmp_path / "input.txt.part").write_bytes(TEXT[:50_000])
    one = one_file(f"{server.address}/input.txt")

    class Full(io.RawIOBase):
        def write(self, block):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_opened", lambda part, begins: Full())
        with pytest.raises(RunError, match=r"No space left on device; what has arrived is kept, and the same command"):
            fetched(one, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 1))
        with pytest.raises(RunError, match=r"has 1 bytes free, 52,400 are needed; free some or choose another --data"):
            fetched(one, tmp_path)
    assert (tmp_path / "input.txt.part").read_bytes() == TEXT[:50_000]


def test_a_source_is_a_folder_a_file_or_an_address_of_either(server, tmp_path):
    (tmp_path / "input.txt").write_bytes(TEXT)
    one = one_file("http://nowhere.invalid/input.txt")
    sources = [str(tmp_path), str(tmp_path / "input.txt"), tmp_path.as_uri(), (tmp_path / "input.txt").as_uri()]
    for source in sources:
        assert fetched(one, tmp_path / "new", source)["input.txt"].path == tmp_path / "input.txt"
    for source in (server.address, f"{server.address}/", f"{server.address}/input.txt"):
        found = fetched(one, tmp_path / "new", source)["input.txt"]
        assert (found.verified, found.address) == (True, f"{server.address}/input.txt")
        found.path.unlink()
    with pytest.raises(UserError, match=r"none/input\.txt is missing; --source must name .* that holds input\.txt"):
        fetched(one, tmp_path / "new", str(tmp_path / "none"))
    with pytest.raises(UserError, match="begins with file, http or https"):
        fetched(one, tmp_path / "new", "ftp://host/folder")


def test_sets_are_listed_and_unknown_ones_named(capsys):
    get.main([])
    said = capsys.readouterr().out
    assert all(f"{one.name} (or {one.short})" in said and one.licence in said and one.home in said for one in SETS)
    with pytest.raises(UserError, match=r"no public set 'fashion-mnits'; did you mean fashion_mnist\?"):
        get.main(["fashion-mnits"])


def test_every_original_has_an_address_and_a_name_of_its_own():
    for one in SETS:
        assert len({original.file for original in one.originals}) == len(one.originals)
        for original in one.originals:
            assert original.address.startswith(("https://", "http://fashion-mnist."))
            assert len(original.sha256) in (0, 64)


def test_a_broken_original_is_named_and_no_set_is_left(tmp_path):
    def splits(originals):
        def records():
            yield 0, {"text": "a"}
            raise unreadable(originals["input.txt"], "it ends early")

        return {"train": records}

    path = tmp_path / "input.txt"
    file = Fetched(path, str(path), "", 1, False)
    with pytest.raises(UserError, match=r"input\.txt' cannot be read: it ends early; remove it and fetch it again"):
        build(dataclasses.replace(SHAKESPEARE, splits=splits), tmp_path / "sets", {"input.txt": file}, int)
    assert not [path for path in Path(tmp_path / "sets").rglob("*") if path.is_file()]


def test_a_source_without_the_files_leaves_nothing_behind(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="are missing; --source must name a folder"):
        get.main(["fashion_mnist", "--data-dir", str(tmp_path / "sets"), "--source", str(tmp_path / "empty")])
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
