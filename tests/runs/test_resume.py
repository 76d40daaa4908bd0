"""A resumed run is the same run, to the bit, whatever interrupted it. Real processes, real signals."""

import functools
import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import command
from unified_jax.cli import train
from unified_jax.cli.entry import run_command
from unified_jax.runs.metrics import cut_lines, read_lines

TORN = '{"step": 99, "loss": 0.'


def lines(folder: Path) -> list[dict]:
    """metrics.jsonl without what may differ between equal runs."""
    kept = []
    for line in read_lines(folder / "metrics.jsonl"):
        kept.append({k: v for k, v in line.items() if not k.startswith("time/")})
    return kept


def parameters(folder: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, as raw bytes of its restored state."""
    import jax

    from unified_jax.runs.checkpoints import Checkpoints
    from unified_jax.runs.directory import load_experiment

    state = Checkpoints(folder, write=False).restore(abstract_state(load_experiment(folder, trust=True)))
    return {jax.tree_util.keystr(p): np.asarray(v) for p, v in jax.tree_util.tree_leaves_with_path(state)}


@functools.cache
def abstract_state(experiment):
    """What a checkpoint of its runs holds."""
    from unified_jax.runs.loop import prepare

    return prepare(experiment).program.abstract_state()


def assert_same_run(a: Path, b: Path) -> None:
    """Metrics, parameters, moments, averages and previews are equal to the bit."""
    assert lines(a) == lines(b)
    left, right = parameters(a), parameters(b)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
    names = sorted(p.name for p in (a / "previews").iterdir())
    assert names == sorted(p.name for p in (b / "previews").iterdir())
    assert all((a / "previews" / n).read_bytes() == (b / "previews" / n).read_bytes() for n in names)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny, one_device):
    """Twelve steps without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    assert run_command(train.main, [str(tiny), "--run-dir", str(folder)]) == 0
    return folder


def wait_for(process, condition) -> None:
    """Until the condition holds; fails if the process ends first."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def count_lines(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


MOMENTS = {
    "before_the_first_checkpoint": lambda rolling, lines: lines >= 1,
    "inside_a_save": lambda rolling, lines: any("tmp" in p.name for p in rolling.glob("*")) or (rolling / "4").exists(),
    "between_checkpoints": lambda rolling, lines: (rolling / "4").exists() and lines >= 6,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "moments",
    [
        ("before_the_first_checkpoint", "inside_a_save"),
        # in the suite: a run that goes back to the checkpoint before the newest, in the test of a directory's faults
        pytest.param(("inside_a_save", "between_checkpoints"), marks=pytest.mark.nightly),
    ],
    ids="-".join,
)
def test_kill_and_resume(tmp_path, tiny, cache, whole, capsys, moments):
    """Killed at one moment after the other, then ended by SIGTERM: what goes on to the end is the run left alone."""
    metrics, rolling = tmp_path / "metrics.jsonl", tmp_path / "checkpoints" / "rolling"

    def started():
        """A process, once it has cut the torn line of the one before."""
        process = command("train.py", tiny, "--run-dir", tmp_path, cache=cache)
        wait_for(process, lambda: metrics.exists() and TORN not in metrics.read_text())
        return process

    for reached in (MOMENTS[name] for name in moments):
        process = started()
        wait_for(process, lambda reached=reached: reached(rolling, count_lines(tmp_path)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with metrics.open("a") as file:
            file.write(TORN)
    process = started()
    before = count_lines(tmp_path)
    wait_for(process, lambda: count_lines(tmp_path) > before)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["finished"] or f"saved at step {summary['step']}" in err
    code, err = attempt(capsys, tiny, "--run-dir", tmp_path, "--resume", "must")
    assert code == 0, err
    assert_same_run(tmp_path, whole)
    times = [line["time/seconds"] for line in read_lines(metrics) if "time/seconds" in line]
    assert times == sorted(times)  # seconds of all its processes


def attempt(capsys, *arguments) -> tuple[int, str]:
    """(exit code, stderr) of a training command in this process."""
    code = run_command(train.main, [str(a) for a in arguments])
    return code, capsys.readouterr().err


def test_replay_reproduces_a_step_and_writes_nothing(tiny, whole, one_device, capsys):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
    assert run_command(train.main, [str(tiny), "--run-dir", str(whole), "--replay", "6"]) == 0
    out = capsys.readouterr().out
    logged = next(line for line in lines(whole) if line["step"] == 6 and "loss" in line)
    assert f"step 6: loss {logged['loss']:.6g}, gradient norm {logged['grad_norm']:.6g} (finite)" in out
    assert out.count("slot") == 8
    assert before == {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
    code, err = attempt(capsys, tiny, "--run-dir", whole, "--replay", "6", "--seed", "3")
    assert code == 2 and "holds a run with another seed (0 -> 3)" in err
    assert before == {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
    code, err = attempt(capsys, tiny, "--run-dir", whole, "--init-from", whole)
    assert code == 2 and "that began afresh: --init-from" in err


@pytest.mark.slow
def test_faults_of_a_run_directory(tmp_path, tiny, whole, capsys):
    folder = tmp_path / "run"
    code, err = attempt(capsys, tiny, "--run-dir", folder, "--resume", "must")
    assert code == 2 and "holds no finished checkpoint" in err
    shutil.copytree(whole, folder)
    newest = folder / "checkpoints" / "rolling" / "12" / "state"
    for path in [p for p in newest.rglob("*") if p.is_file() and p.stat().st_size > 2000]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for flags, words in (
        (("--resume", "never"), "already holds a run (step 12)"),
        (("--optimizer.learning-rate", "0.5", "--steps", "20"), "another optimizer.learning_rate (0.001 -> 0.5)"),
        (("--steps", "8"), "beyond --steps 8"),
        (("--steps", "20", "--resume", "must"), "delete that folder to go back to step 8"),
    ):
        code, err = attempt(capsys, tiny, "--run-dir", folder, *flags)
        assert code == 2 and words in err, err
        assert "Traceback" not in err
    assert "cannot be read" in err
    code, err = attempt(capsys, tiny, "--run-dir", folder)
    assert code == 0, err
    assert "rolling/12 cannot be read" in err and "goes on from step 8" in err
    assert (folder / "checkpoints" / "damaged" / "12").is_dir()
    assert_same_run(folder, whole)


def test_init_from_starts_a_new_run_from_the_average(tmp_path, tiny, whole, one_device, capsys):
    flags = ("--init-from", whole, "--steps", "1", "--preview.every", "0", "--validation.every", "0")
    code, err = attempt(capsys, tiny, "--run-dir", tmp_path / "new", *flags)
    assert code == 0, err
    first = lines(tmp_path / "new")[0]
    assert first["step"] == 1
    assert first["loss"] < lines(whole)[0]["loss"]


def test_metrics_are_cut_at_the_restored_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step"')
    cut_lines(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    cut_lines(tmp_path / "none.jsonl", 2)
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite(tmp_path, tiny, one_device, capsys):
    folder = tmp_path / "run"
    flags = ("--optimizer.learning-rate", "1e30", "--optimizer.clip-norm", "0", "--optimizer.warmup-steps", "0")
    flags += ("--preview.every", "0", "--validation.every", "0")
    code, err = attempt(capsys, tiny, "--run-dir", folder, *flags)
    assert code == 1, err
    assert "not finite" in err
    assert "Traceback" not in err
    record = read_lines(folder / "non_finite.jsonl")[0]
    assert len(record["ids"]) == len(record["slots"]) == 8
    code, err = attempt(capsys, tiny, "--run-dir", folder, *flags, "--non-finite", "skip")
    assert code == 0, err
    assert json.loads((folder / "summary.json").read_text())["skipped"] > 0
