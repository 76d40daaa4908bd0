"""Several processes are one run: the same numbers, one writer, one end. Real processes, real signals."""

import json
import os
import random
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.helpers import ROOT, finish, processes, run
from tests.runs.test_resume import count_lines, lines, wait_for
from unified_jax.runs.metrics import read_lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory, recipe, cache):
    """Twelve steps in one process on one device."""
    folder = tmp_path_factory.mktemp("whole")
    code, _, err = run("train.py", recipe, "--run-dir", folder, "--evaluate", 8, cache=cache)
    assert code == 0, err
    return folder


def assert_close(folder, whole):
    """Every step once, the same examples to the number, losses to 1e-5."""
    ours, theirs = ([line for line in lines(f) if "examples" in line] for f in (folder, whole))
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert [line["examples"] for line in ours] == [line["examples"] for line in theirs]
    np.testing.assert_allclose([line["loss"] for line in ours], [line["loss"] for line in theirs], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "devices", "mesh"),
    [
        (2, 2, ("--mesh.data", 2, "--mesh.tensor", 2)),
        (2, 1, ("--mesh.data", 1, "--mesh.tensor", 2)),  # the processes train on the same rows
    ],
)
def test_processes_train_evaluate_and_sample_like_one(tmp_path, recipe, cache, whole, count, devices, mesh):
    folder, evaluated = tmp_path / "run", ("--evaluate", 8) if devices == 2 else ()  # on a mesh of its own
    started = processes(
        count, "train.py", recipe, "--run-dir", folder, *mesh, *evaluated, devices=devices, cache=cache
    )  # fmt: skip
    ended = finish(started)
    assert [code for code, _, _ in ended] == [0] * count, ended
    assert "Trained 12 steps" in ended[0][1]
    assert not any("Trained" in out or "accuracy" in out for _, out, _ in ended[1:])
    assert_close(folder, whole)
    validated = [[line["validation/loss"] for line in lines(f) if "validation/loss" in line] for f in (folder, whole)]
    np.testing.assert_allclose(*validated, rtol=1e-5)
    assert sorted(p.name for p in (folder / "previews").iterdir()) == ["step_0000006.png", "step_0000012.png"]
    told = read_lines(folder / "metrics.jsonl")[-2]["time/by_process"]
    assert len(told["0"]["step_seconds"]) == len(told["0"]["own_seconds"]) == 2
    assert {f"process_{i:03d}.log" for i in range(count)} <= {p.name for p in (folder / "logs").iterdir()}
    request = ("--run", folder, "--given.shape", "circle", "--given.colour", "red", "--count", 6, "--formats", "npz")
    if evaluated:
        accuracy = [json.loads((f / "evaluation.json").read_text())["rows"][0]["value"] for f in (folder, whole)]
        assert accuracy[0] == pytest.approx(accuracy[1], abs=0.05)
        ended = finish(processes(2, "sample.py", *request, "--out", tmp_path / "two", cache=cache))
        assert [code for code, _, _ in ended] == [0, 0], ended
        code, _, err = run("sample.py", *request, "--out", tmp_path / "one", cache=cache)
        assert code == 0, err
        two, one = (np.load(tmp_path / name / "samples.npz")["image"].astype(int) for name in ("two", "one"))
        assert np.abs(two - one).max() <= 1


FOUR, TWO = (4, (), 4), (2, ("--mesh.data", 1, "--mesh.fsdp", 2), 8)  # processes, their mesh, killed after this step


@pytest.mark.slow
@pytest.mark.parametrize(("reduction", "stages"), [("fast", [TWO]), ("strict", [FOUR, TWO])], ids=["fast", "strict"])
def test_killed_runs_go_on_with_other_processes_and_devices(tmp_path, recipe, cache, whole, reduction, stages):
    """Four processes, all killed; two with FSDP, killed; one with four devices and two microbatches."""
    folder, flags = tmp_path / "run", ("--reduction", reduction, "--preview.every", 0, "--validation.every", 0)
    rng = random.Random(reduction)
    for count, mesh, least in stages:
        started = processes(count, "train.py", recipe, "--run-dir", folder, *flags, *mesh, cache=cache)
        wait_for(started[0], lambda n=least: (folder / "checkpoints" / "rolling" / str(n)).exists())
        time.sleep(rng.random() * 0.1)
        for process in started:
            process.send_signal(signal.SIGKILL)
        finish(started)
    code, _, err = run("train.py", recipe, "--run-dir", folder, *flags, "--accumulate", 2, devices=4, cache=cache)
    assert code == 0, err
    assert "train again" not in err
    assert_close(folder, whole)
    if reduction == "strict":
        alone = tmp_path / "alone"
        code, _, err = run("train.py", recipe, "--run-dir", alone, *flags, cache=cache)
        assert code == 0, err
        assert lines(folder) == lines(alone)


@pytest.mark.slow
def test_a_signal_to_one_stops_all_at_the_same_step(tmp_path, recipe, cache):
    folder = tmp_path / "run"
    flags = ("--steps", 5000, "--optimizer.schedule", "constant", "--preview.every", 0, "--validation.every", 0)
    started = processes(2, "train.py", recipe, "--run-dir", folder, *flags, "--checkpoint.every", 5000, cache=cache)
    wait_for(started[0], lambda: count_lines(folder) >= 3)
    started[1].send_signal(signal.SIGTERM)
    ended = finish(started, 120)
    assert [code for code, _, _ in ended] == [0, 0], ended
    step = json.loads((folder / "summary.json").read_text())["step"]
    assert f"saved at step {step}" in ended[0][2]
    assert [p.name for p in (folder / "checkpoints" / "rolling").iterdir()] == [str(step)]


@pytest.mark.slow
def test_where_one_dies_the_others_end_with_a_sentence(tmp_path, recipe, cache):
    folder = tmp_path / "run"
    flags = ("--steps", 5000, "--optimizer.schedule", "constant", "--preview.every", 0, "--validation.every", 0)
    started = processes(2, "train.py", recipe, "--run-dir", folder, *flags, cache=cache)
    wait_for(started[0], lambda: (folder / "checkpoints" / "rolling" / "4").exists())
    started[1].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    (code, _, err), _ = finish(started, 120)
    assert time.monotonic() - begun < 60
    assert code == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "Start all processes again with the same command." in last
    assert "heckpoint is step" in last


@pytest.mark.slow
def test_what_stops_one_stops_all_with_its_sentence(tmp_path, recipe):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").mkdir()  # process 0 alone writes it
    ended = finish(processes(2, "train.py", recipe, "--run-dir", folder), 120)
    assert [code for code, _, _ in ended] == [1, 1], ended
    assert "config.json cannot be written" in ended[0][2]
    assert "error: Process 0: " in ended[1][2]
    assert "config.json cannot be written" in ended[1][2]


@pytest.mark.slow
def test_where_one_stands_still_the_others_end(tmp_path, recipe, cache):
    """As a host that goes dark: its connections stay open and nothing comes."""
    folder = tmp_path / "run"
    flags = ("--steps", 5000, "--optimizer.schedule", "constant", "--preview.every", 0, "--validation.every", 0)
    started = processes(2, "train.py", recipe, "--run-dir", folder, *flags, "--hosts.timeout", 10, cache=cache)
    wait_for(started[0], lambda: (folder / "checkpoints" / "rolling" / "4").exists())
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(started[1].pid)], capture_output=True, text=True)
    still = int(found.stdout)
    os.kill(still, signal.SIGSTOP)
    try:
        _, err = started[0].communicate(timeout=60)
        assert started[0].returncode == 1
        last = err.strip().splitlines()[-1]
        assert last.startswith("error: JAX's runtime ended this process")
        assert "checkpoint is step" in last
        assert last in (folder / "logs" / "process_000.log").read_text()
    finally:
        os.kill(still, signal.SIGKILL)
        finish(started)


@pytest.mark.slow
def test_processes_may_come_to_two_saves_of_a_step_in_any_order(tmp_path):
    """The best and the rolling checkpoint wait at barriers of their own: neither fails, and nobody hangs."""
    ended = finish(processes(2, ROOT / "tests" / "hosts" / "saves.py", tmp_path / "run"), 100)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert all("failed: []" in out for _, out, _ in ended), ended


@pytest.mark.slow
def test_processes_that_do_not_meet(tmp_path, recipe):
    flags = ("--hosts.coordinator", "localhost:1", "--hosts.count", 2, "--hosts.index", 1)
    code, _, err = run("train.py", recipe, "--run-dir", tmp_path / "run", *flags, "--hosts.join-timeout", 3)
    assert code == 1
    assert "did not find each other" in err.strip().splitlines()[-1]
