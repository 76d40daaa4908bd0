"""The schedule of a session on a borrowed GPU: order, skipping, abandoned compilations, and files written at once."""

import importlib.util
import io
import json
import logging
import os
import re
import sys
import time

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture
def session(root):
    """The script, which is no module of the package."""
    spec = importlib.util.spec_from_file_location("gpu_session", root / "benchmarks/gpu_session.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_session"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_session"]


def test_parts_run_in_order_and_those_that_no_longer_fit_are_skipped(session, tmp_path):
    parts = [session.Part("first", 1), session.Part("long", 1), session.Part("never_ran", 40), session.Part("short", 1)]
    (tmp_path / "long.json").write_text(json.dumps({"status": "measured", "device": "H200", "seconds": 30}))
    (tmp_path / "short.json").write_text(json.dumps({"status": "measured", "device": "A100", "seconds": 30}))
    order = []

    def run(part, path, left):
        assert not order or (tmp_path / f"{order[-1]}.json").exists()  # written before the next begins
        order.append(part.name)
        path.write_text(json.dumps({"answer": part.name}))
        return None

    found = session.session(parts, run, tmp_path, "H200", 20, tiny=False)
    assert order == ["first", "short"]  # another device's time says nothing
    assert [facts["status"] for facts in found.values()] == ["measured", "skipped", "skipped", "measured"]
    assert "20 s were left, it takes 30 s" in found["long"]["why"]
    held = json.loads((tmp_path / "first.json").read_text())
    assert held["result"] == {"answer": "first"} and held["device"] == "H200" and held["seconds"] >= 0
    assert json.loads((tmp_path / "long.json").read_text())["seconds"] == 30


def test_a_bad_run_says_why_and_does_not_replace_a_good_result(session, tmp_path):
    parts = [session.Part("old", 1), session.Part("new", 1)]
    good = {"status": "measured", "device": "H200", "seconds": 1, "result": 7}
    (tmp_path / "old.json").write_text(json.dumps(good))
    found = session.session(parts, lambda *given: "it ended with code 1", tmp_path, "H200", 20, tiny=False)
    assert found["old"]["status"] == found["new"]["status"] == "failed"
    assert json.loads((tmp_path / "old.json").read_text()) == good
    assert json.loads((tmp_path / "new.json").read_text())["why"] == "it ended with code 1"


def test_tiny_runs_say_that_nothing_was_measured(session, tmp_path):
    def run(part, path, left):
        path.write_text("{}")

    found = session.session([session.Part("one", 1000)], run, tmp_path, "cpu", 20, tiny=True)
    assert found["one"]["status"] == "tried"
    assert json.loads((tmp_path / "one.json").read_text())["why"].startswith("not measured")


@pytest.mark.parametrize(
    ("script", "seconds", "why"),
    [
        ("print('Compiling jit(f) with global shapes and types'); import time; time.sleep(30)", 20, "jit\\(f\\)"),
        ("import time; time.sleep(30)", 0.3, "time was over"),
        ("raise SystemExit(3)", 20, "code 3"),
    ],
)
def test_a_slow_compilation_or_the_end_of_the_session_ends_a_part(session, tmp_path, script, seconds, why):
    begun = time.monotonic()
    said = session.watched([sys.executable, "-uc", script], dict(os.environ), tmp_path / "log", seconds, 0.3)
    assert re.search(why, said)
    assert time.monotonic() - begun < 15


def test_finished_compilations_are_none(session):
    """With the lines of this version of JAX."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger("jax").addHandler(handler)
    try:
        with jax.log_compiles(True):
            jax.jit(lambda x: x * 2 + 17)(jnp.arange(7))
    finally:
        logging.getLogger("jax").removeHandler(handler)
    now = [0.0]
    compilations = session.Compilations(lambda: now[0])
    lines = [line for line in stream.getvalue().splitlines() if "lambda" in line]
    for line in lines:
        compilations.read(line)
        now[0] += 100 * ("global shapes" in line)
        if "global shapes" in line:
            assert "lambda" in compilations.slow(60)
    assert any("global shapes" in line for line in lines)
    assert compilations.slow(60) is None


def test_every_part_exists(session, root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import gpu_session_parts

    assert {part.name for part in session.PARTS} == set(gpu_session_parts.PARTS)
