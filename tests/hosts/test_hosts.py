"""Several processes are one run: the same numbers, one writer, one end. Real processes, real signals."""

import json
import os
import random
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from tests.helpers import ROOT, finish, processes, run
from tests.runs.test_resume import count_lines, lines, wait_for
from unified_jax.cli import evaluate, sample, train
from unified_jax.cli.entry import run_command
from unified_jax.runs import loop
from unified_jax.runs.metrics import read_lines
from unified_jax.runs.supervise import PIPE
from unified_jax.sharding import make_mesh

FOREVER = ("--steps", 5000)
NEVER = ("--preview.every", 0, "--validation.every", 0)
OFTEN = ("--preview.every", 6, "--validation.every", 12)
LONG = 200
"""Steps of the run that others are compared with."""


def here(command, *arguments):
    """A command in this process, on one device."""
    assert run_command(command.main, [str(a) for a in arguments]) == 0


def without_parents(patch, *arguments, **options):
    """What two processes end with that no supervisor started; the other tests have one each."""
    ours, theirs = os.pipe()
    with patch.context() as child:
        child.setenv(PIPE, str(ours))
        started = processes(2, *arguments, pass_fds=(ours,), **options)
    os.close(ours)
    try:
        return finish(started, 120)
    finally:
        os.close(theirs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny, one_device):
    """All steps in one process on one device, strictly."""
    folder = tmp_path_factory.mktemp("whole")
    flags = ("--reduction", "strict", "--preview.every", 0, "--validation.every", 12, "--checkpoint.every", LONG)
    here(train, tiny, "--run-dir", folder, "--steps", LONG, *flags)
    return folder


def trained(folder):
    """The lines of steps."""
    return [line for line in lines(folder) if "examples" in line]


def assert_close(folder, whole):
    """Every step once, the same examples to the number, losses to 1e-5, validated or not."""
    ours = trained(folder)
    theirs = trained(whole)[: len(ours)]
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert [line["examples"] for line in ours] == [line["examples"] for line in theirs]
    np.testing.assert_allclose([line["loss"] for line in ours], [line["loss"] for line in theirs], rtol=1e-5)
    found = [line for line in lines(folder) if "validation/loss" in line]
    known = {line["step"]: line["validation/loss"] for line in lines(whole) if "validation/loss" in line}
    np.testing.assert_allclose(
        [line["validation/loss"] for line in found], [known[line["step"]] for line in found], rtol=1e-5
    )


def assert_whole_run(folder, started, whole):
    """Twelve steps with validation and previews: process 0 alone reports, every process keeps a log and its times."""
    ended = finish(started)
    assert [code for code, _, _ in ended] == [0] * len(started), ended
    assert "Trained 12 steps" in ended[0][1]
    assert not any("Trained" in out or "accuracy" in out for _, out, _ in ended[1:])
    assert_close(folder, whole)
    assert len(trained(folder)) == 12
    assert [line["step"] for line in lines(folder) if "validation/loss" in line] == [12]
    assert sorted(p.name for p in (folder / "previews").iterdir()) == ["step_0000006.png", "step_0000012.png"]
    told = read_lines(folder / "metrics.jsonl")[-2]["time/by_process"]
    assert len(told["0"]["step_seconds"]) == len(told["0"]["own_seconds"]) == 2
    assert {f"process_{i:03d}.log" for i in range(len(started))} <= {p.name for p in (folder / "logs").iterdir()}


@pytest.mark.slow
def test_processes_train_evaluate_and_sample_like_one(tmp_path, tiny, cache, whole, monkeypatch):
    folder, mesh = tmp_path / "run", ("--mesh.data", 2, "--mesh.tensor", 2)
    started = processes(
        2, "train.py", tiny, "--run-dir", folder, *mesh, *OFTEN, "--evaluate", 8, devices=2, cache=cache
    )  # fmt: skip
    assert_whole_run(folder, started, whole)
    here(evaluate, "--run", folder, "--count", 8, "--out", tmp_path / "alone")
    kept = (folder / "evaluation.json", tmp_path / "alone" / "evaluation.json")
    accuracy = [json.loads(path.read_text())["rows"][0]["value"] for path in kept]
    assert accuracy[0] == pytest.approx(accuracy[1], abs=0.05)
    request = ("--run", folder, "--given.shape", "circle", "--given.colour", "red", "--count", 6, "--formats", "npz")
    ended = without_parents(monkeypatch, "sample.py", *request, "--trust", "--out", tmp_path / "two", cache=cache)
    assert [code for code, _, _ in ended] == [0, 0], ended
    here(sample, *request, "--out", tmp_path / "one")
    two, one = (np.load(tmp_path / name / "samples.npz")["image"].astype(int) for name in ("two", "one"))
    assert np.abs(two - one).max() <= 1


@pytest.mark.nightly
def test_processes_that_train_on_the_same_rows_draw_previews(tmp_path, tiny, cache, whole):
    """In the suite: their losses, in the test of a signal; previews, in that of four devices."""
    folder, mesh = tmp_path / "run", ("--mesh.data", 1, "--mesh.tensor", 2)
    assert_whole_run(folder, processes(2, "train.py", tiny, "--run-dir", folder, *mesh, *OFTEN, cache=cache), whole)


FSDP = ("--mesh.data", 1, "--mesh.fsdp", 2)


def newest(folder):
    """The step of the newest checkpoint; 0 without one."""
    kept = (folder / "checkpoints" / "rolling").glob("*")
    return max((int(p.name) for p in kept if p.name.isdigit()), default=0)


def goes_on(patch, folder, tiny, whole, *flags):
    """The run in this process with two devices and two microbatches, a checkpoint further: as `whole`."""
    last = newest(folder) + 4
    assert last <= LONG, "the run that others are compared with is too short"
    patch.setattr(loop, "make_mesh", lambda shape: make_mesh(shape, jax.devices()[:2]))
    here(train, tiny, "--run-dir", folder, *flags, "--steps", last, "--accumulate", 2)
    assert len(trained(folder)) == last
    assert_close(folder, whole)
    if "strict" in flags:
        exact = ("loss", "grad_norm", "param_norm")
        ours, theirs = ([[line[name] for name in exact] for line in trained(f)] for f in (folder, whole))
        assert ours == theirs[:last]


@pytest.mark.slow
def test_where_one_dies_the_others_end_with_a_sentence(tmp_path, tiny, cache, whole, monkeypatch, capfd):
    """Two processes with FSDP, one killed; then one with two devices and two microbatches: strictly the same run."""
    folder, flags = tmp_path / "run", ("--reduction", "strict", *NEVER)
    started = processes(2, "train.py", tiny, "--run-dir", folder, *flags, *FSDP, *FOREVER, cache=cache)
    wait_for(started[0], lambda: newest(folder) >= 8)
    started[1].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    (code, _, err), _ = finish(started, 120)
    assert time.monotonic() - begun < 60
    assert code == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "Start all processes again with the same command." in last
    assert "heckpoint is step" in last
    goes_on(monkeypatch, folder, tiny, whole, *flags)
    assert "train again" not in capfd.readouterr().err


@pytest.mark.nightly
@pytest.mark.parametrize("reduction", ["fast", "strict"])
def test_killed_runs_go_on_with_other_processes_and_devices(
    tmp_path, tiny, cache, whole, reduction, monkeypatch, capfd
):
    """Four processes, all killed; two with FSDP, killed. In the suite: two, of which one is killed."""
    folder, flags = tmp_path / "run", ("--reduction", reduction, *NEVER)
    steps, rng = ("--steps", LONG - 4), random.Random(reduction)  # killed after a few of them
    for count, mesh, least in ((4, (), 4), (2, FSDP, 8)):
        started = processes(count, "train.py", tiny, "--run-dir", folder, *flags, *mesh, *steps, cache=cache)
        wait_for(started[0], lambda n=least: newest(folder) >= n)
        time.sleep(rng.random() * 0.1)
        for process in started:
            process.send_signal(signal.SIGKILL)
        finish(started)
    goes_on(monkeypatch, folder, tiny, whole, *flags)
    assert "train again" not in capfd.readouterr().err


TENSOR = ("--mesh.data", 1, "--mesh.tensor", 2)
"""Both processes train on the same rows."""


@pytest.mark.slow
def test_a_signal_to_one_stops_all_at_the_same_step(tmp_path, tiny, cache, whole):
    folder = tmp_path / "run"
    flags = (*TENSOR, *FOREVER, *NEVER, "--checkpoint.every", 5000)
    started = processes(2, "train.py", tiny, "--run-dir", folder, *flags, cache=cache)
    wait_for(started[0], lambda: count_lines(folder) >= 3)
    started[1].send_signal(signal.SIGTERM)
    ended = finish(started, 120)
    assert [code for code, _, _ in ended] == [0, 0], ended
    step = json.loads((folder / "summary.json").read_text())["step"]
    assert f"saved at step {step}" in ended[0][2]
    assert [p.name for p in (folder / "checkpoints" / "rolling").iterdir()] == [str(step)]
    assert_close(folder, whole)


@pytest.mark.slow
def test_what_stops_one_stops_all_with_its_sentence(tmp_path, tiny, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").mkdir()  # process 0 alone writes it
    ended = without_parents(monkeypatch, "train.py", tiny, "--run-dir", folder)
    assert [code for code, _, _ in ended] == [1, 1], ended
    assert "config.json cannot be written" in ended[0][2]
    assert "error: Process 0: " in ended[1][2]
    assert "config.json cannot be written" in ended[1][2]


@pytest.mark.slow
def test_where_one_stands_still_the_others_end(tmp_path, tiny, cache):
    """As a host that goes dark: its connections stay open and nothing comes."""
    folder = tmp_path / "run"
    flags = (*TENSOR, *FOREVER, *NEVER, "--hosts.timeout", 10)
    started = processes(2, "train.py", tiny, "--run-dir", folder, *flags, cache=cache)
    wait_for(started[0], lambda: newest(folder) >= 4)
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
def test_processes_that_do_not_meet(tmp_path, tiny):
    flags = ("--hosts.coordinator", "localhost:1", "--hosts.count", 2, "--hosts.index", 1)
    code, _, err = run("train.py", tiny, "--run-dir", tmp_path / "run", *flags, "--hosts.join-timeout", 3)
    assert code == 1
    assert "did not find each other" in err.strip().splitlines()[-1]
