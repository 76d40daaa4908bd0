"""The parts of a run of several processes that need only one."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from unified_jax.errors import UserError
from unified_jax.hosts import Hosts, gather, lay, lay_rows, local_rows, name, stop_wanted, together, writes
from unified_jax.runs.loop import peer_lost
from unified_jax.runs.stragglers import Pace, slow
from unified_jax.sharding import MeshShape, Rules, make_mesh


def test_one_process_is_a_run_of_its_own():
    assert writes()
    assert name() == ""
    assert not stop_wanted(3)
    assert together(lambda: 5, by="first") == 5
    assert gather(np.arange(3)).tolist() == [[0, 1, 2]]
    with pytest.raises(UserError, match="mine"):
        together(_fail)


def _fail():
    raise UserError("mine")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"coordinator": "here"}, "HOST:PORT"),
        ({"coordinator": "here:12", "count": 2, "index": 2}, "0 .. count - 1"),
        ({"count": 2}, "go with"),
        ({"timeout": 1}, "at least 10 seconds"),
    ],
)
def test_bad_flags_are_sentences(fields, words):
    with pytest.raises(UserError, match=words):
        Hosts(**fields)


@pytest.mark.parametrize("mesh", [MeshShape(8), MeshShape(2, 2, 2), MeshShape(1, 1, 8)], ids=str)
def test_rows_are_laid_where_they_belong(mesh):
    made = make_mesh(mesh)
    cut = jax.sharding.NamedSharding(made, Rules().activation_spec(("batch",)))
    value = np.arange(48.0).reshape(16, 3)
    held = local_rows(cut, 16)
    assert held.tolist() == list(range(16))
    np.testing.assert_array_equal(lay_rows(value, held, 16, cut), value)
    np.testing.assert_array_equal(lay(value, cut), value)


def told(own, still=0.0, step=1.0):
    return {"own_seconds": [own, own], "step_seconds": [step, step], "still": still}


def test_a_slow_process_is_the_one_that_differs():
    assert slow({0: told(0.01), 1: told(0.011), 2: told(0.5), 3: told(0.012)}) == [2]
    assert slow({0: told(0.01), 1: told(0.04)}) == []  # a small part of a step
    assert slow({0: told(0.01, 0.1), 1: told(0.01, 5.0)}) == [1]
    assert slow({0: told(0.01, 5.0), 1: told(0.01, 5.0)}) == []  # all stood still: the disk, not a process
    assert slow({0: told(0.5)}) == []


def test_paces_meet_in_the_run_directory(tmp_path):
    said = []
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "pace_001.json").write_text('{"own_seconds": [9, 9], "step_seconds": [9, 9], "still": 0}')
    paces = [Pace(tmp_path / "logs", i, 3, said.append) for i in range(3)]
    for index, pace in enumerate(paces):
        pace.own.extend([0.9 if index == 2 else 0.01] * 4)
        pace.steps.extend([1.0] * 4)
    assert paces[2].report(4) == {}
    (tmp_path / "logs" / "pace_001.json").write_text("{torn")
    found = paces[0].report(4)["time/by_process"]
    assert set(found) == {"0", "2"}
    assert json.loads((tmp_path / "logs" / "pace_002.json").read_text())["own_seconds"] == [0.9, 0.9]
    paces[0].report(5)
    assert len(said) == 1  # once
    assert "process 2 is slow" in said[0]
    for pace in paces:
        pace.close()


def test_a_run_that_hangs_shows_its_threads_and_ends():
    code = (
        "import threading, time\nfrom unified_jax.runs.watchdog import Pulse\n"
        "def wait_for_a_dead_disk():\n    time.sleep(60)\n"
        "with Pulse(0.5, lambda: 'The last good checkpoint is step 8.') as pulse:\n"
        "    pulse.beat('step 9')\n    wait_for_a_dead_disk()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "wait_for_a_dead_disk" in ended.stderr
    assert ended.stderr.strip().splitlines()[-1].startswith("error: The run hangs after step 9")
    assert "step 8" in ended.stderr


def test_the_words_of_a_lost_process_count_whatever_raises_them():
    """Reading an array of a failed collective raises a plain error; mistakes of the request are not among them."""
    words = "UNKNOWN: Gloo AllGather failed: [external/gloo/gloo/transport/tcp/pair.cc:538] Read error"
    assert peer_lost(ValueError(words))
    assert peer_lost(jax.errors.JaxRuntimeError("UNAVAILABLE"))
    assert not peer_lost(UserError("The batch is too large."))
