"""The best checkpoint by a metric of samples, and early stopping."""

import dataclasses
import json

import numpy as np
import pytest

import unified_jax as uj
from tests.helpers import TINY
from unified_jax.runs import loop, measuring
from unified_jax.runs.metrics import read_lines
from unified_jax.runs.patience import Patience
from unified_jax.runs.start import Start
from unified_jax.training.experiment import Best

VALUES = {2: 5.0, 4: 3.0, 6: 4.0, 8: 3.5, 10: 9.0}
"""What a measurement gives after so many steps, in the place of a distance."""


def recipe(**best):
    wanted = Best("frechet", every=2, count=4, **best)
    return dataclasses.replace(
        TINY, steps=10, checkpoint=uj.Checkpointing(every=4, best=wanted), validation=uj.Validation(every=2, batches=1),
        preview=dataclasses.replace(TINY.preview, every=0),
    )  # fmt: skip


@pytest.fixture
def told(monkeypatch, tmp_path):
    """Measurements that give VALUES and keep the parameters that they were given."""
    seen = {}

    def value(self, params, step):
        seen[step] = np.asarray(params["mlp"]["fc1"]["kernel"])
        return VALUES[step]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(measuring.Distance, "value", value)
    return seen


def measured(run):
    return {line["step"]: line["best/frechet"] for line in read_lines(run / "metrics.jsonl") if "best/frechet" in line}


def test_the_best_checkpoint_is_of_the_weights_that_were_measured(told, tmp_path, one_device):
    summary = loop.train(recipe(), Start(tmp_path / "run", quiet=True))
    assert summary["finished"]
    assert summary["step"] == 10
    assert measured(tmp_path / "run") == VALUES
    best = uj.load(tmp_path / "run", best=True)
    assert best.step == 4  # the validation loss of every second step did not decide
    np.testing.assert_array_equal(np.asarray(best.params["mlp"]["fc1"]["kernel"]), told[4])


def test_a_run_out_of_patience_ends_and_stays_ended(told, tmp_path, one_device):
    start = Start(tmp_path / "run", quiet=True)
    summary = loop.train(recipe(patience=2), start)
    assert (summary["step"], summary["finished"]) == (8, True)  # 4 was the best, then twice no better
    again = loop.train(recipe(patience=2), start)
    assert again == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert sorted(told) == [2, 4, 6, 8]


def test_a_stopped_run_resumes_to_the_same_best(told, tmp_path, one_device, monkeypatch):
    """Killed after the measurement of step 6, whose checkpoint is step 4's."""
    real = measuring.Distance.value

    def dies(self, params, step):
        if step == 6:
            raise KeyboardInterrupt
        return real(self, params, step)

    with monkeypatch.context() as patch:
        patch.setattr(measuring.Distance, "value", dies)
        with pytest.raises(KeyboardInterrupt):
            loop.train(recipe(), Start(tmp_path / "run", quiet=True))
    loop.train(recipe(), Start(tmp_path / "run", quiet=True))
    assert measured(tmp_path / "run") == VALUES
    assert uj.load(tmp_path / "run", best=True).step == 4


def test_patience_counts_what_is_not_finite_as_no_better():
    lower, higher = Best("fid", 1, patience=2), Best("precision", 1, patience=2)
    assert not Patience(lower, (3.0, float("nan"))).over
    assert Patience(lower, (3.0, float("nan"), 3.0)).over
    assert not Patience(lower, (3.0, 4.0, 2.0)).over
    assert Patience(higher, (0.3, 0.2, 0.3)).over
    assert not Patience(higher, (0.1, 0.2, 0.3)).over
    assert not Patience(dataclasses.replace(lower, patience=0), (1.0, 2.0, 3.0, 4.0)).over


def test_what_cannot_be_measured_is_refused_before_the_first_step(tmp_path, one_device):
    def refused(match, **best):
        e = dataclasses.replace(TINY, checkpoint=uj.Checkpointing(best=Best(**best)))
        with pytest.raises(uj.UserError, match=match):
            loop.train(e, Start(tmp_path / "run", quiet=True))

    refused("name the file of its weights", metric="fid", every=2)
    refused("does not exist", metric="fid", every=2, inception=str(tmp_path / "none.pth"))
    refused("neither a path nor a split", metric="frechet", every=2, against="nosplit")
    with pytest.raises(ValueError, match="both a metric and every"):
        Best("fid")


@pytest.mark.parametrize("metric", ["psnr", "ssim", "binding/colour", "near", "modes", "readable, nothing -> image"])
def test_a_score_of_which_more_is_better_is_known_by_its_name(metric):
    best = Best(metric, 1, patience=2)
    assert best.higher and not Patience(best, (20.0, 25.0, 30.0, 35.0)).over
    assert not Best("reconstruction_frechet/random_perceptual", 1).higher
    with pytest.raises(ValueError, match=r"set checkpoint\.best\.better to 'higher' or 'lower'"):
        Best("mine", 1)
    assert Best("mine", 1, better="higher").higher and not Best("psnr", 1, better="lower").higher
