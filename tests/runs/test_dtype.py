"""`--dtype auto`: chosen where a run begins, told, recorded, and kept where it goes on."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from tests.helpers import EXPERIMENT, on_one_device
from tests.runs.test_resume import lines, parameters
from unified_jax import precision
from unified_jax.config import config_hash, to_plain
from unified_jax.errors import UserError
from unified_jax.models.diffusion import Diffusion
from unified_jax.networks.dit import DiT
from unified_jax.runs import dtype
from unified_jax.runs.loop import train
from unified_jax.runs.start import Start
from unified_jax.sharding import make_mesh
from unified_jax.training import compute
from unified_jax.training.algorithms import Muon
from unified_jax.training.experiment import Checkpointing, Previews, Validation
from unified_jax.training.program import assemble

SMALL = dataclasses.replace(
    EXPERIMENT, model=dataclasses.replace(EXPERIMENT.model, network=DiT(depth=1, width=32, heads=2)), steps=6,
    checkpoint=Checkpointing(every=3), preview=Previews(every=0), validation=Validation(every=0), dtype="auto",
)  # fmt: skip


def processor(monkeypatch, short):
    monkeypatch.setattr(compute, "multiplies_bfloat16", lambda: short)


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16", True),
        ("flags : fpu amx_bf16 amx_tile", True),
        ("flags : fpu avx2 avx512f", False),
        ("Features : fp asimd bf16", False),
        (None, False),
    ],
)
def test_the_probe_reads_linux_own_list(monkeypatch, flags, found):
    def read(*_, **__):
        if flags is None:
            raise FileNotFoundError
        return f"processor : 0\nmodel name : avx512_bf16\n{flags}\n"

    monkeypatch.setattr(precision.Path, "read_text", read)
    assert precision.multiplies_bfloat16.__wrapped__() is found


def test_a_run_goes_on_in_the_dtype_it_began_in_to_the_bit(tmp_path, monkeypatch, capsys):
    on_one_device(monkeypatch)
    processor(monkeypatch, True)
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert train(SMALL, Start(whole))["finished"]
    assert "dtype auto: bfloat16; this processor multiplies bfloat16." in capsys.readouterr().err
    saved = json.loads((whole / "config.json").read_text())
    assert saved["model"]["network"]["dtype"] == "bfloat16" and saved["dtype"] == "network"
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / "rolling" / "6")
    (again / "summary.json").unlink()
    processor(monkeypatch, False)
    assert train(SMALL, Start(again))["finished"]
    assert (
        "the run began in bfloat16 and goes on in it; these devices would have taken float32" in capsys.readouterr().err
    )
    assert json.loads((again / "config.json").read_text()) == saved
    assert lines(whole) == lines(again)
    left, right = parameters(whole), parameters(again)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_each_device_has_its_choice(monkeypatch):
    for short, wanted in ((True, "bfloat16"), (False, "float32")):
        processor(monkeypatch, short)
        program = assemble(SMALL, make_mesh(SMALL.mesh, jax.devices()[:1]))
        assert program.experiment.model.network.dtype == wanted and program.experiment.dtype == "network"
        assert compute.fastest("gpu") == compute.fastest("tpu") == "bfloat16"


def test_a_choice_that_was_made_is_one_that_was_written():
    """Old hashes stay, and a network's own dtype is left alone where none is left open."""
    written = dataclasses.replace(SMALL, dtype="network")
    assert compute.settled(written, "bfloat16") == written
    assert config_hash(compute.settled(SMALL, "float32")) == config_hash(written)
    assert config_hash(compute.settled(SMALL, "bfloat16")) != config_hash(written)


def test_muon_takes_the_choice_too_unless_its_run_began_without(tmp_path):
    """A run from before the products had a choice goes on with float32's."""
    own = dataclasses.replace(SMALL, optimizer=dataclasses.replace(SMALL.optimizer, rule=Muon()))
    whole = compute.settled(own, "bfloat16")
    assert whole.optimizer.rule.products == "bfloat16" and whole.model.network.dtype == "bfloat16"
    assert compute.settled(own, "float32") == dataclasses.replace(own, dtype="network")
    assert compute.settled(SMALL, "bfloat16").optimizer == SMALL.optimizer  # Adam has none
    saved = to_plain(whole)
    for products, began in (("bfloat16", "bfloat16"), ("float32", "float32"), (None, "float32")):
        saved["optimizer"]["rule"]["products"] = products
        if products is None:
            del saved["optimizer"]["rule"]["products"]
        (tmp_path / "config.json").write_text(json.dumps(saved))
        rule = dtype.chosen(own, tmp_path, quiet=True).optimizer.rule
        assert rule.products == began, products


def test_a_model_without_such_a_network_is_refused():
    model = dataclasses.make_dataclass("Bare", [("width", int, 3)], frozen=True)()
    with pytest.raises(UserError, match="Bare has no network with a compute dtype to choose"):
        compute.networks_of(model)
    assert compute.networks_of(Diffusion()) == ["network"]
