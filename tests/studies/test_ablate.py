"""Studies: what may be written in one, and that a killed study ends with the table of one that was left alone."""

import csv
import dataclasses
import json
import re
import shutil
import signal

import pytest

from tests.helpers import EXPERIMENT, TINY, write_recipe
from unified_jax.cli import ablate
from unified_jax.cli.entry import run_command
from unified_jax.errors import UserError
from unified_jax.networks.unet.levels import Level
from unified_jax.networks.unet.network import UNet
from unified_jax.runs.loop import train
from unified_jax.runs.metrics import read_lines
from unified_jax.runs.seeds import train_together
from unified_jax.runs.start import Start
from unified_jax.studies import cells, results, running
from unified_jax.studies.study import Budget, Metric, Study, Variant, apply_change, load_study, parse_settings

STUDY = """
from unified_jax.studies.study import Study, Variant

def study():
    return Study({base!r}, ({variants}), seeds={seeds}, common={common}, samples=16, together="never")
"""


def write_study(folder, variants='Variant("slow", {"optimizer.learning_rate": 1e-4}),', seeds=5, **common):
    text = STUDY.format(
        base=str(write_recipe(folder, "TINY")),
        variants=variants,
        seeds=seeds,
        common={"preview.every": 0} | {name.replace("__", "."): value for name, value in common.items()},
    )
    path = folder / "mine.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer.learning_rat": 1.0}, "did you mean optimizer.learning_rate?"),
        ({"model.network.depth": "two"}, "model.network.depth: expected int, found 'two'"),
        ({"ema.7.decay": 0.5}, "ema.7 is not an index of a tuple of 2"),
        ({"steps.more": 1}, "steps.more: int has no field 'more'; its fields: none"),
        ({"steps": -1}, "arm: --steps must be at least 1"),
        ({"model.network.heads": 5}, "heads"),
        (lambda e: e.nothing, "The change of 'arm' fails: AttributeError"),
        (lambda e: 3, "must return an Experiment, found int"),
    ],
)
def test_a_bad_change_is_a_sentence(change, words):
    with pytest.raises(UserError, match=re.escape(words)):
        apply_change(EXPERIMENT, change, "arm")


def test_changes_reach_into_tuples_and_are_checked_together():
    found = apply_change(EXPERIMENT, {"ema.1.decay": 0.5, "batch-size": 9, "accumulate": 3}, "arm")
    assert (found.ema[0].decay, found.ema[1].decay, found.batch_size, found.accumulate) == (0.9, 0.5, 9, 3)
    assert apply_change(EXPERIMENT, lambda e: dataclasses.replace(e, steps=3), "arm").steps == 3
    assert parse_settings(("a.b=1e-3", "c=/sets", "d=(1, 2)")) == {"a.b": 1e-3, "c": "/sets", "d": (1, 2)}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Study("quickstart", (Variant("base"),)), "base twice"),
        (lambda: Study("quickstart", ()), "at least one variant"),
        (lambda: Study("quickstart", (Variant("a"),), seeds=(1, 1)), "seeds, each once"),
        (lambda: Study("quickstart", (Variant("a", {}, (1, 2)),)), "has 2 seeds of its own, expected 5"),
        (lambda: Study("quickstart", (Variant("a/b"),)), "must not be empty"),
        (lambda: Study("quickstart", (Variant("a", share=0.0),)), "share of 'a' must lie in (0, 1], found 0.0"),
        (
            lambda: Study("quickstart", (Variant("a"),), metrics=(Metric("loss", arms=("b",)),)),
            "names the arm 'b'; the arms are base, a",
        ),
        (lambda: load_study("nothing"), "Unknown study 'nothing'"),
    ],
)
def test_a_bad_study_is_a_sentence(make, words):
    with pytest.raises(UserError, match=re.escape(words)):
        make()


def test_budgets_match_parameters_and_flops(tmp_path):
    """Twice the depth: the width is searched for the same parameters, then steps for the same FLOPs."""
    base = str(write_recipe(tmp_path))
    deep = Variant("deep", {"model.network.depth": 4})
    study = Study(base, (deep,), budget=Budget("flops", adjust="model.network.width", multiple=8))
    small, matched = cells.plan_arms(study, {"steps": 1000}, lambda e: 1.0)
    assert matched.experiment.model.network.width < 32
    assert matched.parameters == pytest.approx(small.parameters, rel=0.2)
    assert matched.flops == pytest.approx(small.flops, rel=2e-3)
    timed = dataclasses.replace(study, budget=Budget("seconds", 30.0))
    arms = cells.plan_arms(timed, {}, lambda e: 0.1 if e.model.network.depth == 4 else 0.05)
    assert [arm.experiment.steps for arm in arms] == [600, 300]
    with pytest.raises(UserError, match="too small for one step"):
        cells.plan_arms(dataclasses.replace(study, budget=Budget("flops", 1.0)), {}, lambda e: 1.0)


def test_specialists_share_the_budget_and_are_scored_by_their_own(tmp_path):
    """Of one label each: a quarter of the parameters and FLOPs, and metrics of their own."""
    shape = EXPERIMENT.model.conditions[:1]
    alone = Variant("shape", {"model.conditions": shape}, share=0.25)
    metrics = (Metric("loss", "lower", arms=("shape",)), Metric("loss", "higher", arms=("other",)))
    study = Study(
        str(write_recipe(tmp_path)), (alone, Variant("other")), metrics=metrics,
        budget=Budget("flops", adjust="model.network.width", multiple=4),
    )  # fmt: skip
    whole, quarter, _ = cells.plan_arms(study, {"steps": 1000}, lambda e: 1.0)
    assert quarter.parameters == pytest.approx(whole.parameters / 4, rel=0.3)
    assert quarter.flops == pytest.approx(whole.flops / 4, rel=2e-3)
    assert [study.metrics_of(name) for name in ("base", "shape", "other")] == [metrics, metrics[:1], metrics[1:]]
    arms = tuple(cells.Arm(a.name, EXPERIMENT, a.seeds, 1, 1.0) for a in study.arms)
    records = [r for arm in arms for r in records_of(arm.name, [1.0, 2.0])]
    assert [r.arm for r in results.summarize(study, arms, records)] == ["base", "shape", "base", "other"]


def test_a_metric_that_cannot_be_is_refused_before_training(tmp_path):
    base = str(write_recipe(tmp_path))
    arm = (Variant("slow", {"optimizer.learning_rate": 1e-4}),)
    for metric, words in (
        (Metric("attribute_accuracy", split="validation"), "no split 'validation'"),
        (Metric("attribute_accuracy", wanted=("sound",)), "names 'sound', which the model does not have"),
    ):
        with pytest.raises(UserError, match=words):
            cells.plan_arms(Study(base, arm, metrics=(metric,)), {}, lambda e: 1.0)
    with pytest.raises(UserError, match="needs validation"):
        cells.plan_arms(Study(base, arm, common={"validation.every": 0}), {}, lambda e: 1.0)


def records_of(arm, values, failed=()):
    return [
        {
            "arm": arm,
            "seed": i,
            "values": {"loss": v} if i not in failed else {},
            "failed": "why" if i in failed else "",
        }
        for i, v in enumerate(values)
    ]


def test_verdicts():
    """Claims follow the metric's direction, pair what both have, and need five pairs."""
    study = Study("quickstart", (Variant("up"), Variant("few")), metrics=(Metric("loss", "lower"),))
    arms = tuple(cells.Arm(a.name, EXPERIMENT, a.seeds, 1, 1.0) for a in study.arms)
    base = [1.0, 1.1, 0.9, 1.05, 0.95]
    up = [v + 1 + 0.01 * i for i, v in enumerate(base)]
    records = records_of("base", base) + records_of("up", up) + records_of("few", up, failed=(2,))
    rows = {row.arm: row for row in results.summarize(study, arms, records)}
    assert (rows["up"].verdict, rows["few"].verdict) == ("worse", "no claim: 4 of at least 5 seeds")
    assert rows["few"].failed == ("seed 2: why",)
    assert rows["up"].difference.value == pytest.approx(1.02)
    flipped = dataclasses.replace(study, metrics=(Metric("loss", "higher"),))
    assert {r.arm: r.verdict for r in results.summarize(flipped, arms, records)}["up"] == "better"


@pytest.mark.slow
def test_seeds_together_are_the_seeds_alone(tmp_path, one_device):
    """Losses to 1e-5, the same lines of metrics, the same batches; of the second seed, and the first is another."""
    quiet = dataclasses.replace(TINY, steps=6, preview=dataclasses.replace(TINY.preview, every=0))
    several = tuple(dataclasses.replace(quiet, seed=i) for i in range(2))
    starts = tuple(Start(tmp_path / f"together{i}", quiet=True) for i in range(2))
    summaries = train_together(several, starts)
    alone = Start(tmp_path / "alone", quiet=True)
    summary = train(several[1], alone)
    first, second, by_itself = (read_lines(start.run_dir / "metrics.jsonl") for start in (*starts, alone))
    for ours, theirs, other in zip(by_itself, second, first, strict=True):
        assert {k for k in ours if not k.startswith("time/")} == {k for k in theirs if not k.startswith("time/")}
        for name in ours.keys() & {"loss", "validation/loss", "grad_norm"}:
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5, rel=1e-5)
            assert ours[name] != pytest.approx(other[name], abs=1e-5, rel=1e-5)
        assert ours.get("examples") == theirs.get("examples")
        assert "examples" not in ours or ours["examples"] != other["examples"]
    assert summary["loss"] == pytest.approx(summaries[1]["loss"], abs=1e-5)
    assert summary["flops_per_step"] == summaries[0]["flops_per_step"] == summaries[1]["flops_per_step"]
    with pytest.raises(UserError, match="nothing but the seed"):
        train_together((several[0], dataclasses.replace(several[1], steps=9)), starts[:2])


@pytest.mark.slow
def test_a_study_survives_kills_and_names_what_failed(tmp_path, one_device, capfd, monkeypatch):
    """As a kill leaves it, it goes on, is stopped, and ends as the study left alone; a broken arm fails alone."""
    variants = 'Variant("slow", {"optimizer.learning_rate": 1e-4}), Variant("bad", {"optimizer.learning_rate": 1e30})'
    study = write_study(tmp_path, variants, seeds=1, checkpoint__every=4, validation__every=12, log_every=4)
    whole, broken, show, reach = tmp_path / "whole", tmp_path / "broken", running.Bar.show, running.Bar.reach

    def call(out):
        assert run_command(ablate.main, [str(study), "--out", str(out)]) == 0
        return capfd.readouterr()

    def copied(bar, what):
        if what == "slow, seed 0":
            shutil.copytree(whole, broken)
        show(bar, what)

    def stopped(bar, run_dir, step):
        reach(bar, run_dir, step)
        if step == 5:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(running.Bar, "show", copied)
        out, _ = call(whole)
    assert [path.parent.parent.name for path in broken.glob("cells/*/*/cell.json")] == ["base"]
    with monkeypatch.context() as patch:
        patch.setattr(running.Bar, "reach", stopped)
        _, err = call(broken)
    assert "Stopped and saved; the same command resumes." in err
    assert not (broken / "table.csv").exists()
    call(broken)
    assert (broken / "table.csv").read_text() == (whole / "table.csv").read_text()
    rows = {row["arm"]: row for row in csv.DictReader((whole / "table.csv").read_text().splitlines())}
    assert (rows["slow"]["pairs"], rows["bad"]["mean"]) == ("1", "")
    assert rows["slow"]["verdict"] == "no claim: 1 of at least 5 seeds"
    assert "seed 0: Step" in rows["bad"]["failed"]
    assert "| slow |" in out
    page = (whole / "index.html").read_text()
    assert page.count("data:image/png;base64,") >= 2
    assert not re.search(r'(src|href)="(?!data:)', page)
    cell = json.loads((whole / "cells" / "slow" / "seed_0" / "cell.json").read_text())
    assert cell["config_hash"] in page
    assert cell["seed"] == 0


def test_dry_run_says_what_is_there(tmp_path, capsys):
    study = write_study(tmp_path, seeds=2, steps=100)
    assert run_command(ablate.main, [str(study), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "slow, seed 1" in out
    assert "(+0.00 %)" in out
    assert not (tmp_path / "out").exists()
    assert run_command(ablate.main, [str(study), "--set", "steps=0", "--dry-run"]) == 2
    assert "--set: --steps must be at least 1, found 0." in capsys.readouterr().err


def test_a_change_is_told_on_one_line_without_what_is_as_ever():
    level = Level(8, reads="itself")
    study = Study("quickstart", (Variant("unet", {"model.network": UNet(down=(level,), groups=4), "steps": 5}),))
    assert results.changes(study)[1] == (
        "unet",
        "model.network = UNet(down=(Level(channels=8, reads=itself)), groups=4), steps = 5",
    )
