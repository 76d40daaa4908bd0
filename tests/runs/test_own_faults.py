"""Faults of a user's own classes: named before the first step, or at least without the loss of a checkpoint."""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import unified_jax as uj
from tests.helpers import TINY
from unified_jax.config import check_kinds
from unified_jax.data.base import record_of
from unified_jax.errors import UserError
from unified_jax.evaluation.scores import Score
from unified_jax.models.stages import Encoder
from unified_jax.processes.grids import Needs
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.runs import directory, loop
from unified_jax.runs.checking import kind_of
from unified_jax.runs.dry_run import dry_run
from unified_jax.runs.previews import Previewer
from unified_jax.runs.recipe import load_recipe, open_recipe
from unified_jax.runs.start import Start
from unified_jax.typing import lacking

SHORT = dataclasses.replace(
    TINY, steps=2, checkpoint=uj.Checkpointing(every=2), preview=dataclasses.replace(TINY.preview, every=2, count=4),
    validation=uj.Validation(every=0),
)  # fmt: skip


@dataclass(frozen=True)
class Smaller:
    """A sampler that returns a part of its x, or nothing."""

    nothing: bool = False
    needs = Needs()

    def __call__(self, denoise: Any, process: Any, x: Any, grid: Any, keys: Any) -> Any:
        return None if self.nothing else x[:, :4]


@dataclass(frozen=True)
class Mean:
    """A score that gives what it is told."""

    rows: str = "good"
    words: str = ""

    def suits(self, data: Any, model: Any) -> str:
        return self.words

    def __call__(self, samples: Any) -> Any:
        good = {"metric": f"mean_{self.rows}", "value": np.float32(samples.made.mean())}
        return {"one": good, "number": 3.0, "bare": [{"value": 1.0}], "none": None}.get(self.rows, [good])


@pytest.mark.parametrize("nothing", [False, True])
def test_a_sampler_returns_samples_of_the_shape_of_its_x(nothing):
    plan, x = uj.SamplingPlan(Smaller(nothing), steps=2), jnp.zeros((3, 8, 8, 1))
    process, grid = plan.prepare(RectifiedFlow())
    with pytest.raises(UserError, match=r"The sampler Smaller returns .* expected samples as its x, \(3, 8, 8, 1\)"):
        plan.run(None, process, x, grid, None)


def test_a_preview_that_fails_costs_no_checkpoint(tmp_path, monkeypatch):
    def fails(self: Any, params: Any, path: Path) -> None:
        raise NameError("name 'missing' is not defined")

    with monkeypatch.context() as broken:
        broken.setattr(Previewer, "write", fails)
        with pytest.raises(NameError):
            loop.train(SHORT, Start(tmp_path / "run", quiet=True))
    assert uj.load(tmp_path / "run", trust=True).step == 2
    assert loop.train(SHORT, Start(tmp_path / "run", quiet=True))["finished"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [("one", "The score Mean returns {'metric'"), ("number", "returns 3.0"), ("bare", "expected a list of rows")],
)
def test_a_score_returns_rows(tmp_path, rows, words):
    run = tmp_path / "run"
    loop.train(dataclasses.replace(SHORT, scores=(Mean(),)), Start(run, quiet=True))
    found = uj.evaluate(run, count=4, splits="test", trust=True)  # a word is one split
    assert {(row["split"], row["metric"], row["low"]) for row in found} == {("test", "mean_good", None)}
    written = json.loads((run / "evaluation.json").read_text())
    assert isinstance(written["rows"][0]["value"], float) and written["count"] == 4
    loop.train(dataclasses.replace(SHORT, scores=(Mean(rows),)), Start(run, quiet=True))  # finished: takes the score
    with pytest.raises(UserError, match=words):
        uj.evaluate(run, count=4, splits=("test",), trust=True)


def test_a_score_that_does_not_suit_is_refused_before_the_first_step(tmp_path):
    experiment = dataclasses.replace(SHORT, scores=(Mean(words="it reads films"),), evaluate=4)
    with pytest.raises(UserError, match="Mean does not suit this run: it reads films"):
        loop.train(experiment, Start(tmp_path / "run", quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_refuses_what_a_training_would(tmp_path):
    with pytest.raises(UserError, match="nosuch"):
        dry_run(SHORT, tmp_path / "run", init_from=tmp_path / "nosuch")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; name a folder"):
        dry_run(SHORT, tmp_path / "file")
    best = uj.Checkpointing(best=dataclasses.replace(SHORT.checkpoint.best, metric="fid", every=1))
    with pytest.raises(UserError, match="name the file of its weights"):
        dry_run(dataclasses.replace(SHORT, checkpoint=best), tmp_path / "run")
    frozen = dataclasses.replace(SHORT, tuning=uj.Tuning(train=("w",)))
    with pytest.raises(UserError, match=r"freezes a part .*--init-from RUN"):
        dry_run(frozen, tmp_path / "run")
    with pytest.raises(UserError, match="--stage nosuch: this run has no stages"):
        dry_run(SHORT, tmp_path / "run", {"nosuch": tmp_path})


@dataclass(frozen=True)
class TrainOnly:
    """A data set whose other splits are empty."""

    name: str = "mine"

    def parts(self, split: str, fields: tuple[str, ...]) -> tuple[tuple[float, str, Any], ...]:
        source = SHORT.data.parts("train", fields)[0][2]
        return ((1.0, "mine", source if split == "train" else ()),)


def test_a_split_that_the_evaluation_lacks_is_told_before_training(tmp_path):
    mine = dataclasses.replace(SHORT, data=TrainOnly(), evaluate=8)
    with pytest.raises(
        UserError, match=r"after training: .*'mine': split 'test' is empty.* --evaluate 0 trains without"
    ):
        dry_run(mine, tmp_path / "run")
    assert "'train'" in dry_run(dataclasses.replace(mine, evaluate=0), tmp_path / "run")


def test_a_dry_run_says_what_is_taken_of_another_run_and_what_does_not_fit(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    small, wide = (
        dataclasses.replace(SHORT, model=dataclasses.replace(SHORT.model, network=uj.DiT(1, width, 2)))
        for width in (16, 32)
    )
    directory.create(old)
    directory.save_experiment(old, small)
    said = dry_run(small, new, init_from=old)
    assert re.search(rf"begins from     {old}: \d+ parameters are taken\.\n", said)
    with pytest.raises(UserError, match=r"16.*32"):
        dry_run(wide, new, init_from=old)


@dataclass(frozen=True)
class Holding:
    """A configuration that holds anything."""

    value: Any = None


@pytest.mark.parametrize(
    ("value", "words"), [(Path("photos"), r"is a PosixPath.*write str\(path\)"), ([1], "is a list.*write a tuple")]
)
def test_fields_hold_what_a_configuration_can(value, words):
    with pytest.raises(UserError, match=rf"Holding.value {words}"):
        check_kinds(Holding((Holding(value),)))
    check_kinds(Holding((1, 2.0, "a", None, True, Holding())))


@dataclass(frozen=True)
class Short:
    """An encoder whose method lacks an argument."""

    size: int = 1

    def init(self, key: Any) -> Any: ...
    def axes(self) -> Any: ...
    def encode(self, x: Any) -> Any: ...
    def condition_form(self, part: Any) -> Any: ...


def test_methods_take_what_their_protocol_gives():
    assert lacking(Short, Encoder) == "Short.encode takes self, x, not self, params, x, keys"
    assert lacking(type, Score) == "a class itself is given: call it"
    assert lacking(str, Score) == "str is no dataclass"
    assert "is no dataclass" in lacking(type("Bare", (), {}), Score)


def test_records_that_cannot_be_read_are_named():
    for fault, words in (({}, "record 3: KeyError: 3"), ([], "record 3: IndexError: list index out of range")):
        with pytest.raises(UserError, match=f"Data set 'own', {words}"):
            record_of(fault, "own", 3)  # pyright: ignore[reportArgumentType]
    text = "Data set 'own', record 7, field 'series': expected -1.5 .. 2, found -3.25 .. 9."
    assert kind_of(text, "") == "field 'series': expected -1.5 .. 2, found -N.N .. N"


RECIPE = """
import unified_jax as uj
def experiment({}) -> uj.Experiment:
    return uj.recipe("world_tiny")
"""


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("sizes=[1, 2]", "'sizes' may change; write a tuple"),
        ("**more", r"\*more is no flag"),
        ("a: Nope = 1", "'Nope'"),
    ],
)
def test_parameters_of_a_recipe_that_are_no_flags(tmp_path, parameters, words):
    path = tmp_path / "own_parameters.py"
    path.write_text("from __future__ import annotations\n" + RECIPE.format(parameters))
    with pytest.raises(UserError, match=words):
        open_recipe(str(path), [], ())


def test_slips_of_the_python_calls():
    assert load_recipe("world_tiny")
    balance = uj.FixedBalance((("ms", 2.0),))
    with pytest.raises(UserError, match=r"names the loss terms ms; this model has mse"):
        balance.weigh({}, ("mse",))
