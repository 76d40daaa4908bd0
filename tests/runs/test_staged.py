"""Training in stages: what follows from what, and going on after an interruption at any moment."""

import dataclasses
import json
import shutil
import signal
import time

import numpy as np
import pytest

from tests.helpers import ROOT, TINY, command, on_one_device, run
from unified_jax.cli.train import parse_all
from unified_jax.data.world import World
from unified_jax.errors import UserError
from unified_jax.interop.names import flatten
from unified_jax.modalities.image import Image
from unified_jax.models.tuned import Tuning
from unified_jax.networks.uvit import UVit
from unified_jax.runs import directory, staged
from unified_jax.runs.opened import open_run
from unified_jax.runs.recipe import open_stages
from unified_jax.runs.saved import Which
from unified_jax.runs.staged import Staged
from unified_jax.runs.start import Start
from unified_jax.training.experiment import Checkpointing, Previews, Validation
from unified_jax.training.optimizer import Optimization

STILL = {"preview": Previews(every=0), "validation": Validation(every=0), "checkpoint": Checkpointing(every=2)}
FIRST = dataclasses.replace(TINY, steps=5, optimizer=Optimization(learning_rate=1e-2, warmup_steps=0), **STILL)
SECOND = dataclasses.replace(
    FIRST, model=dataclasses.replace(FIRST.model, modality=Image(32, 32, 3, patch=8)),
    data=World(resolution=32, max_objects=1), steps=4, seed=1,
)  # fmt: skip


class Stop(BaseException):
    """What ends a process here."""


def start_of(folder, **fields):
    return Start(folder, quiet=True, **fields)


def weights_of(folder):
    _, params, step = open_run(folder, Which(), trust=True)
    return step, {name: np.asarray(value) for name, value in flatten(params).items()}


CUTS = [((2, 1),), pytest.param(((1, 3), (2, 1), (2, 3)), marks=pytest.mark.nightly)]
"""(stage, step): the second stage before its first checkpoint; and the first one, and the second one, after one."""


@pytest.mark.parametrize("cuts", CUTS)
def test_each_stage_starts_from_the_one_before_and_an_interruption_is_made_up(cuts, tmp_path, monkeypatch):
    on_one_device(monkeypatch)
    whole, folder = tmp_path / "whole", tmp_path / "cut"
    assert Staged((FIRST, SECOND), start_of(whole)).run()
    origin = json.loads((whole / "stage_2" / "origin.json").read_text())
    assert origin["run"] == "stage_1" and origin["step"] == 5
    lines = Staged((FIRST, SECOND), start_of(whole)).table().splitlines()
    assert [line.split()[0] for line in lines] == ["Stages", "run", "stage_1", "stage_2"]
    assert "5/5" in lines[2] and "4/4" in lines[3] and lines[3].endswith("stage_1")
    if cuts[0][0] == 2:
        shutil.copytree(whole / "stage_1", folder / "stage_1")  # sooner than to train it again
    for stage, step in cuts:

        def report(done, stage=stage, step=step):
            if done >= step and (folder / f"stage_{stage}" / "config.json").is_file():
                raise Stop

        with pytest.raises(Stop):
            Staged((FIRST, SECOND), start_of(folder, report=report)).run()
    assert Staged((FIRST, SECOND), start_of(folder)).run()
    last, again = weights_of(whole / "stage_2"), weights_of(folder / "stage_2")
    assert again[0] == last[0] == 4
    for name, value in last[1].items():
        np.testing.assert_array_equal(again[1][name], value, err_msg=name)


def finished(experiment, start):
    """Training, as files: what a finished run leaves."""
    directory.create(start.run_dir)
    directory.save_experiment(start.run_dir, experiment)
    (start.run_dir / "checkpoints" / "rolling" / str(experiment.steps)).mkdir(parents=True, exist_ok=True)
    if start.init_from:
        there = directory.read_summary(start.init_from / "summary.json")
        directory.write_json(start.run_dir / "origin.json", {"run": start.init_from.name, "step": there["step"]})
    summary = {"step": experiment.steps, "finished": True, "loss": 1.0}
    directory.write_json(start.run_dir / "summary.json", summary)
    return summary


@pytest.fixture
def trained(monkeypatch):
    """The stages that are trained, in order; nothing is computed."""
    names = []

    def train(experiment, start):
        names.append((start.run_dir.name, start.init_from.name if start.init_from else "", start.resume))
        return finished(experiment, start)

    monkeypatch.setattr(staged, "train", train)
    return names


def test_finished_stages_are_skipped(tmp_path, trained):
    three = (FIRST, SECOND, dataclasses.replace(SECOND, seed=5))
    assert Staged(three, start_of(tmp_path, resume="must")).run()
    assert trained == [("stage_1", "", "must"), ("stage_2", "stage_1", "auto"), ("stage_3", "stage_2", "auto")]
    (tmp_path / "stage_3" / "summary.json").unlink()
    trained.clear()
    assert Staged(three, start_of(tmp_path)).run()
    assert [name for name, *_ in trained] == ["stage_3"]
    trained.clear()
    assert Staged(three, start_of(tmp_path)).run()
    assert trained == []
    with pytest.raises(UserError, match="already holds stages"):
        Staged(three, start_of(tmp_path, resume="never")).run()


def test_an_evaluation_that_is_missing_is_made_up(tmp_path, trained):
    two, made = (dataclasses.replace(FIRST, evaluate=8), SECOND), []

    def evaluate(experiment, folder):
        made.append(folder.name)
        directory.write_json(folder / "evaluation.json", {"step": experiment.steps, "rows": []})

    assert Staged(two, start_of(tmp_path), evaluate).run()
    assert Staged(two, start_of(tmp_path), evaluate).run()
    assert made == ["stage_1"]
    (tmp_path / "stage_1" / "evaluation.json").unlink()
    assert Staged(two, start_of(tmp_path), evaluate).run()
    assert made == ["stage_1", "stage_1"] and len(trained) == 2


def test_stages_that_do_not_follow_are_refused_before_the_first_step(tmp_path, trained):
    other = dataclasses.replace(FIRST, model=dataclasses.replace(FIRST.model, network=UVit(2, 32, 2), flip=False))
    with pytest.raises(UserError, match="Stage 2 cannot start from stage 1: --init-from: the run's model is not this"):
        Staged((FIRST, dataclasses.replace(other, tuning=Tuning())), start_of(tmp_path)).run()
    assert trained == []
    assert Staged((FIRST, SECOND), start_of(tmp_path)).run()
    with pytest.raises(UserError, match="holds a run with another seed"):
        Staged((FIRST, dataclasses.replace(SECOND, seed=9)), start_of(tmp_path)).run()
    longer = dataclasses.replace(FIRST, steps=8)
    with pytest.raises(UserError, match="began from step 5 of stage_1, which is not its end now"):
        Staged((longer, SECOND), start_of(tmp_path)).run()


RECIPE = """
import dataclasses, sys
sys.path.insert(0, {root!r})
from tests.runs.test_staged import FIRST, SECOND


def stages(length: int = 5):
    return dataclasses.replace(FIRST, steps=length), dataclasses.replace(SECOND, steps=length)
"""


def recipe_of(folder, name="twice.py", text=RECIPE):
    path = folder / name
    path.write_text(text.format(root=str(ROOT)))
    return path


def test_flags_hold_for_every_stage(tmp_path):
    path = recipe_of(tmp_path)
    _, commands = parse_all([str(path), "--stages", "--length", "3", "--batch-size", "4"])
    assert [one.experiment.steps for one in commands] == [3, 3]
    assert [one.experiment.batch_size for one in commands] == [4, 4]
    assert [one.experiment.seed for one in commands] == [0, 1]
    with pytest.raises(UserError, match="--replay recomputes a step of one run"):
        parse_all([str(path), "--stages", "--replay", "3"])
    wrong = recipe_of(tmp_path, "wrong.py", "def stages():\n    return 1, 2\n")
    with pytest.raises(UserError, match="one Experiment or more, found int, int"):
        open_stages(str(wrong), [], [])
    with pytest.raises(UserError, match=r"needs a function stages\(\) that returns a tuple, found int"):
        open_stages(str(recipe_of(tmp_path, "one.py", "def stages():\n    return 1\n")), [], [])


@pytest.mark.nightly
@pytest.mark.slow
def test_a_killed_command_goes_on(tmp_path, cache):
    """kill -9 at four moments; the last weights are those of an undisturbed command."""
    path = recipe_of(tmp_path)
    words = ("train.py", path, "--stages", "--length", 40, "--checkpoint.every", 5)
    code, out, err = run(*words, "--run-dir", tmp_path / "whole", cache=cache)
    assert code == 0, err
    assert out.count("40/40") == 2
    for stage, step in ((1, 1), (1, 25), (2, 1), (2, 20)):
        process = command(*words, "--run-dir", tmp_path / "cut", cache=cache)
        metrics = tmp_path / "cut" / f"stage_{stage}" / "metrics.jsonl"
        for _ in range(2000):
            if process.poll() is not None:
                break
            if metrics.is_file() and len(metrics.read_text().splitlines()) >= step:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    code, _, err = run(*words, "--run-dir", tmp_path / "cut", cache=cache)
    assert code == 0, err
    cut, undisturbed = (weights_of(tmp_path / name / "stage_2") for name in ("cut", "whole"))
    assert cut[0] == undisturbed[0] == 40
    for name, value in undisturbed[1].items():
        np.testing.assert_array_equal(cut[1][name], value)
