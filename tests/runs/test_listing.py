"""Runs side by side: from their files alone, whatever state they are in."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.helpers import EXPERIMENT
from unified_jax.cli import runs as command
from unified_jax.cli.entry import run_command
from unified_jax.errors import UserError
from unified_jax.runs.directory import save_experiment
from unified_jax.runs.listing import compare, describe, draw_curves, find_runs, table


@pytest.fixture
def folder(tmp_path):
    """A finished run, one that was killed in the middle of a line, one that has just begun, and something else."""
    faster = dataclasses.replace(EXPERIMENT.optimizer, learning_rate=2e-3)
    for name, e in (("a", EXPERIMENT), ("b", dataclasses.replace(EXPERIMENT, optimizer=faster)), ("c", EXPERIMENT)):
        (tmp_path / name).mkdir()
        save_experiment(tmp_path / name, e)
    lines = [{"step": s, "loss": 2.0 - s / 10} for s in range(1, 13)] + [{"step": 12, "validation/loss": 0.9}]
    lines.insert(6, {"step": 6, "validation/loss": 0.8})
    (tmp_path / "a" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = {"step": 12, "finished": True, "parameters": 61_000, "time/seconds": 1800.0}
    (tmp_path / "a" / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "b" / "metrics.jsonl").write_text('{"step": 3, "loss": 1.5}\n{"step": 4, "lo')
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_runs_are_listed_with_how_far_they_came(folder, capsys):
    runs = find_runs([folder])
    assert [run.name for run in runs] == ["a", "b", "c"]
    a, b, c = map(describe, runs)
    assert (a["step"], a["state"], a["loss"], a["validation"]) == ("12/12", "finished", pytest.approx(0.8), 0.8)
    assert (a["parameters"], a["hours"], a["network"]) == (61_000, 0.5, "DiT")
    assert (b["step"], b["state"], b["loss"], b["validation"]) == ("3/12", "begun", 1.5, None)
    assert (c["step"], c["loss"]) == ("0/12", None)
    assert run_command(command.main, [str(folder)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == table([a, b, c]).splitlines()
    assert "61,000" in shown[1]


def test_stages_are_listed_and_a_run_that_ended_early_is_finished(folder):
    stage = folder / "grown" / "stage_1"
    stage.mkdir(parents=True)
    save_experiment(stage, EXPERIMENT)
    (stage / "summary.json").write_text(json.dumps({"step": 8, "finished": True}))
    assert find_runs([folder])[-1] == stage
    assert (describe(stage)["step"], describe(stage)["state"]) == ("8/12", "finished")
    with (stage / "metrics.jsonl").open("w") as file:
        file.write('{"step": 9, "loss": 1.0}\n')  # it goes on
    assert describe(stage)["state"] == "stopped"


def test_runs_are_compared_by_settings_and_curves(folder, capsys):
    a, b = folder / "a", folder / "b"
    assert compare([a, b]) == [{"field": "optimizer.learning_rate", str(a): 1e-3, str(b): 2e-3}]
    out = folder / "figures" / "both.png"
    assert run_command(command.main, [str(a), str(b), "--compare", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"][0]["field"] == "optimizer.learning_rate"
    assert out.read_bytes().startswith(b"\x89PNG")
    assert run_command(command.main, [str(a), "--compare"]) == 2
    assert "at least two runs" in capsys.readouterr().err


def test_a_curve_of_one_point_is_seen(folder):
    """The point is the middle of its axes, where nothing else is drawn."""
    draw_curves([folder / "b"], folder / "b.png")
    with Pillow.open(folder / "b.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    rows, columns = (slice(2 * n // 5, 3 * n // 5) for n in pixels.shape[:2])
    assert (np.abs(pixels[rows, columns] - (0x1F, 0x77, 0xB4)).max(axis=-1) < 8).any()


def test_what_is_no_run_is_a_sentence(folder, capsys):
    with pytest.raises(UserError, match="does not exist"):
        find_runs([folder / "nowhere"])
    assert run_command(command.main, [str(folder / "notes")]) == 2
    assert "There is no run in" in capsys.readouterr().err
