"""A resumed run is the same run, to the bit, whatever interrupted it. Real processes, real signals."""

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import command, run
from unified_jax.runs.metrics import cut_lines, read_lines


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
    from unified_jax.runs.loop import prepare

    state = Checkpoints(folder, write=False).restore(
        prepare(load_experiment(folder, trust=True)).program.abstract_state()
    )
    return {jax.tree_util.keystr(p): np.asarray(v) for p, v in jax.tree_util.tree_leaves_with_path(state)}


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
def whole(tmp_path_factory, recipe, cache):
    """Twelve steps without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    code, out, err = run("train.py", recipe, "--run-dir", folder, cache=cache)
    assert code == 0, err
    assert "Trained 12 steps" in out
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


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before_the_first_checkpoint", "inside_a_save", "between_checkpoints"])
def test_kill_and_resume(tmp_path, recipe, cache, whole, moment):
    process = command("train.py", recipe, "--run-dir", tmp_path, cache=cache)
    rolling = tmp_path / "checkpoints" / "rolling"
    conditions = {
        "before_the_first_checkpoint": lambda: count_lines(tmp_path) >= 1,
        "inside_a_save": lambda: any("tmp" in p.name for p in rolling.glob("*")) or (rolling / "4").exists(),
        "between_checkpoints": lambda: (rolling / "4").exists() and count_lines(tmp_path) >= 6,
    }
    wait_for(process, conditions[moment])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "loss": 0.')  # a torn last line
    code, _, err = run("train.py", recipe, "--run-dir", tmp_path, cache=cache)
    assert code == 0, err
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_0(tmp_path, recipe, cache, whole):
    process = command("train.py", recipe, "--run-dir", tmp_path, cache=cache)
    wait_for(process, lambda: count_lines(tmp_path) >= 1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["finished"] or f"saved at step {summary['step']}" in err
    code, _, err = run("train.py", recipe, "--run-dir", tmp_path, "--resume", "must", cache=cache)
    assert code == 0, err
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
def test_replay_reproduces_a_step_and_writes_nothing(recipe, cache, whole):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
    code, out, err = run("train.py", recipe, "--run-dir", whole, "--replay", "6", cache=cache)
    assert code == 0, err
    logged = next(line for line in lines(whole) if line["step"] == 6 and "loss" in line)
    assert f"step 6: loss {logged['loss']:.6g}, gradient norm {logged['grad_norm']:.6g} (finite)" in out
    assert out.count("slot") == 8
    assert before == {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_faults_of_a_run_directory(tmp_path, recipe, cache, whole):
    def attempt(*arguments):
        code, _, err = run("train.py", recipe, "--run-dir", tmp_path / "run", *arguments, cache=cache)
        assert "Traceback" not in err
        return code, err.strip().splitlines()[-1]

    code, err = attempt("--resume", "must")
    assert code == 2
    assert "holds no finished checkpoint" in err
    shutil.copytree(whole, tmp_path / "run")
    code, err = attempt("--resume", "never")
    assert code == 2
    assert "already holds a run (step 12)" in err
    code, err = attempt("--optimizer.learning-rate", "0.5", "--steps", "20")
    assert code == 2
    assert "another optimizer.learning_rate (0.001 -> 0.5)" in err
    code, err = attempt("--steps", "8")
    assert code == 2
    assert "beyond --steps 8" in err
    newest = tmp_path / "run" / "checkpoints" / "rolling" / "12" / "state"
    for path in [p for p in newest.rglob("*") if p.is_file() and p.stat().st_size > 2000]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, err = attempt("--steps", "20", "--resume", "must")
    assert code == 2
    assert "cannot be read" in err
    assert "delete that folder to go back to step 8" in err
    code, _ = attempt()
    assert code == 0
    assert (tmp_path / "run" / "checkpoints" / "damaged" / "12").is_dir()
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.slow
def test_init_from_starts_a_new_run_from_the_average(tmp_path, recipe, cache, whole):
    code, _, err = run(
        "train.py", recipe, "--run-dir", tmp_path / "new", "--init-from", whole, "--steps", "1", cache=cache
    )
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
def test_a_loss_that_is_not_finite(tmp_path, recipe, cache):
    folder = tmp_path / "run"
    flags = ("--optimizer.learning-rate", "1e30", "--optimizer.clip-norm", "0", "--optimizer.warmup-steps", "0")
    code, _, err = run("train.py", recipe, "--run-dir", folder, *flags, cache=cache)
    assert code == 1, err
    assert "not finite" in err
    assert "Traceback" not in err
    record = read_lines(folder / "non_finite.jsonl")[0]
    assert len(record["ids"]) == len(record["slots"]) == 8
    code, _, err = run("train.py", recipe, "--run-dir", folder, *flags, "--non-finite", "skip", cache=cache)
    assert code == 0, err
    assert json.loads((folder / "summary.json").read_text())["skipped"] > 0
