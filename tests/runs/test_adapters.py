"""Adapter files: out of a tuned run, on its base again; merged exports."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.helpers import EXPERIMENT
from unified_jax.cli.convert import main
from unified_jax.errors import UserError
from unified_jax.models.tuned import Tuning
from unified_jax.runs.loop import train
from unified_jax.runs.opened import open_run
from unified_jax.runs.start import Start
from unified_jax.training.experiment import Previews, Validation

pytestmark = pytest.mark.usefixtures("one_device")
BASE = dataclasses.replace(EXPERIMENT, steps=2, preview=Previews(every=0), validation=Validation())
LORA = dataclasses.replace(BASE, tuning=Tuning(train=(), lora=("mlp",), rank=2), seed=3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train(BASE, Start(folder / "base", quiet=True))
    train(LORA, Start(folder / "tuned", init_from=folder / "base", quiet=True))
    main(["--from", str(folder / "tuned"), "--layout", "adapter", "--to", str(folder / "small.safetensors")])
    return folder


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)
    assert jax.tree.leaves(a)


def test_an_adapter_on_its_base_is_the_run(runs, tmp_path, capsys):
    size = (runs / "small.safetensors").stat().st_size
    main(["--from", str(runs / "tuned"), "--to", str(tmp_path / "merged.safetensors")])
    assert size < 0.7 * (tmp_path / "merged.safetensors").stat().st_size
    arguments = ["--from", str(runs / "small.safetensors"), "--layout", "adapter"]
    main([*arguments, "--base", str(runs / "base"), "--to", str(tmp_path / "again")])
    assert "small.safetensors on" in capsys.readouterr().out
    same(open_run(tmp_path / "again")[1], open_run(runs / "tuned")[1])


def test_a_merged_export_opens_as_a_whole_model(runs, tmp_path):
    main(["--from", str(runs / "tuned"), "--to", str(tmp_path / "merged.safetensors")])
    main(["--from", str(tmp_path / "merged.safetensors"), "--to", str(tmp_path / "merged")])
    experiment, params, _ = open_run(tmp_path / "merged")
    assert experiment.tuning.full
    same(params, open_run(runs / "tuned")[1])


def test_what_does_not_fit_is_refused(runs, tmp_path):
    arguments = ["--from", str(runs / "small.safetensors"), "--layout", "adapter"]
    with pytest.raises(UserError, match="--base RUN"):
        main([*arguments, "--to", str(tmp_path / "run")])
    with pytest.raises(UserError, match=r"was not trained on .*the frozen parameters are others"):
        main([*arguments, "--base", str(runs / "tuned"), "--to", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="trained its whole model"):
        main(["--from", str(runs / "base"), "--layout", "adapter", "--to", str(tmp_path / "x.safetensors")])
    main(["--from", str(runs / "base"), "--to", str(tmp_path / "whole.safetensors")])
    whole = ["--from", str(tmp_path / "whole.safetensors"), "--layout", "adapter", "--base", str(runs / "base")]
    with pytest.raises(UserError, match="does not describe a tuned run"):
        main([*whole, "--to", str(tmp_path / "run")])
