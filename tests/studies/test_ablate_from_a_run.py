"""Studies whose cells start from a trained run: several seeds in one program, and another start is another study."""

import dataclasses
import json
import shutil

import pytest

from tests.helpers import TINY
from unified_jax.errors import UserError
from unified_jax.runs.loop import train
from unified_jax.runs.metrics import read_lines
from unified_jax.runs.seeds import train_together
from unified_jax.runs.start import Start
from unified_jax.studies import cells, report
from unified_jax.studies.running import run_study
from unified_jax.studies.study import Budget, Metric, Study, Variant
from unified_jax.training.experiment import Checkpointing, Previews, Validation

pytestmark = pytest.mark.usefixtures("one_device")
BASE = dataclasses.replace(
    TINY, steps=3, checkpoint=Checkpointing(every=1), preview=Previews(every=0), validation=Validation()
)  # fmt: skip
LORA = {"tuning.train": (), "tuning.lora": ("mlp",), "tuning.rank": 2}
FIELDS = {"steps": 3, "preview.every": 0, "validation.every": 0, "checkpoint.every": 3}


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """A run of three steps."""
    folder = tmp_path_factory.mktemp("runs") / "longer"
    train(BASE, Start(folder, quiet=True))
    return folder


@pytest.fixture(scope="module")
def base(longer):
    """The same run, a step before."""
    folder = longer.with_name("base")
    shutil.copytree(longer, folder)
    shutil.rmtree(folder / "checkpoints" / "rolling" / "3")
    return folder


@pytest.fixture(scope="module")
def study(tiny, base):
    """LoRA; the variant differs in sampling alone, so that it shares the base's runs."""
    return Study(
        str(tiny), (Variant("finer", {"preview.plan.steps": 3}),), seeds=2, common=FIELDS | LORA,
        metrics=(Metric("loss", "lower"),), init_from=str(base), together="always",
    )  # fmt: skip


@pytest.fixture(scope="module")
def arms(study):
    return cells.plan_arms(study, {}, lambda e: 1.0)


def losses(run):
    return [line["loss"] for line in read_lines(run / "metrics.jsonl")]


def test_seeds_of_a_tuned_arm_together_are_those_alone(tmp_path, study, arms, longer):
    """Both ways start at the run and hold the same losses; a base that was trained further is another start."""
    records = run_study(study, arms, tmp_path / "together")
    assert not any(record["failed"] for record in records)
    alone = run_study(dataclasses.replace(study, together="never"), arms, tmp_path / "alone")
    for one, other in zip(records, alone, strict=True):
        a, b = (tmp_path / name / "trained" / r["trained"] for name, r in (("together", one), ("alone", other)))
        assert losses(a) == pytest.approx(losses(b), abs=1e-5)
        kept = [json.loads((run / "summary.json").read_text()) for run in (a, b)]
        assert ["together" in summary for summary in kept] == [True, False]
        assert json.loads((a / "origin.json").read_text())["run"] == "base"
    assert any("starts from the run base, step 2" in line for line in report.proof(study, records))
    assert all(cell.record(study) for cell in cells.cells_of(arms, tmp_path / "together"))
    moved = dataclasses.replace(study, init_from=str(longer))
    after = cells.cells_of(cells.plan_arms(moved, {}, lambda e: 1.0), tmp_path / "together")
    assert not any(cell.record(moved) or cell.trained for cell in after)


def test_seeds_that_freeze_different_parameters_are_not_trained_together(tmp_path, arms, base, longer):
    two = tuple(dataclasses.replace(arms[0].experiment, seed=i) for i in range(2))
    starts = tuple(Start(tmp_path / f"run{i}", init_from=run, quiet=True) for i, run in enumerate((base, longer)))
    with pytest.raises(UserError, match="start from different runs"):
        train_together(two, starts)


def test_a_start_that_cannot_be_is_refused_before_training(tmp_path, study):
    for wrong, words in (
        (dataclasses.replace(study, init_from=""), "base: it trains .* say which run it starts from"),
        (dataclasses.replace(study, init_from=str(tmp_path / "none")), "does not exist"),
        (dataclasses.replace(study, common=FIELDS | {"model.network.width": 64}), "base: --init-from.* these differ"),
    ):
        with pytest.raises(UserError, match=words):
            cells.plan_arms(wrong, {}, lambda e: 1.0)
    with pytest.raises(UserError, match="leave out init_from"):
        dataclasses.replace(study, budget=Budget(adjust="model.network.width"))
