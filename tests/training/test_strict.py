"""Strict reduction: equal to the bit on any number of devices, and close to the fast one."""

import dataclasses
import os
import pickle

import jax
import numpy as np
import pytest

from tests.helpers import MODEL, command, experiment, first_steps
from unified_jax.errors import UserError
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.ema import Ema
from unified_jax.training.program import assemble

CASES = {
    "alone": (1, MeshShape(1), {"reduction": "strict"}),
    "fast": (1, MeshShape(1), {"reduction": "fast"}),
    "fsdp_accumulated": (2, MeshShape(1, 2), {"reduction": "strict", "accumulate": 2}),
}
"""A strict program is compiled once a device; test_players has eight of them along data, for a smaller model."""


SMALL = experiment(
    model=dataclasses.replace(MODEL, network=MODEL.network.clone(remat="none")), ema=(Ema(0.9),), batch_size=16
)  # fmt: skip


def train(case, steps=3):
    """Losses and every array of the state after some steps of a case on the first of two devices."""
    devices, mesh, fields = CASES[case]
    losses, state = first_steps(dataclasses.replace(SMALL, mesh=mesh, **fields), devices, steps)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {"losses": np.asarray(losses)} | {jax.tree_util.keystr(p): np.asarray(x) for p, x in leaves}


CHILD = """
import pickle, sys
from tests.training.test_strict import CASES, train
pickle.dump({case: train(case) for case in CASES if case != 'fast'}, open(sys.argv[1], "wb"))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """{strict case: arrays}, by the emitters that users have: the older ones round loops by their shapes."""
    path = tmp_path_factory.mktemp("strict") / "trained.pickle"
    older = "fusion_emitters" in os.environ["XLA_FLAGS"]
    flags = "--xla_cpu_use_fusion_emitters=true" if older else ""
    process = command("-c", CHILD, path, devices=2, flags=flags)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return pickle.loads(path.read_bytes())


@pytest.mark.slow
def test_any_number_of_devices_and_microbatches_is_bitwise_one(trained):
    for name, value in trained["fsdp_accumulated"].items():
        np.testing.assert_array_equal(value, trained["alone"][name], err_msg=name)


def test_strict_is_close_to_fast(trained):
    fast = train("fast")
    np.testing.assert_allclose(fast["losses"], trained["alone"]["losses"], rtol=1e-5)
    for name, value in fast.items():
        np.testing.assert_allclose(value, trained["alone"][name], atol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mesh": MeshShape(4, 1, 2)}, "tensor and sequence must be 1"),
        ({"virtual_shards": 6}, "power of two"),
        ({"virtual_shards": 32}, "it has 16 rows"),
        ({"virtual_shards": 4, "mesh": MeshShape(8)}, "found 8"),
    ],
)
def test_what_has_no_strict_form_is_refused(fields, words):
    e = experiment(batch_size=16, reduction="strict", **fields)
    with pytest.raises(UserError, match=words):
        assemble(e, make_mesh(e.mesh, jax.devices()))
