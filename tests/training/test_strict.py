"""Strict reduction: equal to the bit on any number of devices, and close to the fast one."""

import jax
import numpy as np
import pytest

from tests.helpers import experiment, first_steps
from unified_jax.errors import UserError
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.program import assemble


def train(devices, mesh, steps=3, **fields):
    """(losses, every array of the state) after some steps on the first `devices` devices."""
    losses, state = first_steps(experiment(batch_size=16, mesh=mesh, **fields), devices, steps)
    return losses, {jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(state)}


@pytest.fixture(scope="module")
def alone():
    return train(1, MeshShape(1), reduction="strict")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "mesh", "accumulate"), [(1, MeshShape(1), 2), (2, MeshShape(2), 1), (4, MeshShape(1, 4), 2),
                                        (8, MeshShape(2, 4), 1)]
)  # fmt: skip
def test_any_number_of_devices_is_bitwise_one(alone, devices, mesh, accumulate):
    losses, state = train(devices, mesh, reduction="strict", accumulate=accumulate)
    np.testing.assert_array_equal(losses, alone[0])
    for name, value in state.items():
        np.testing.assert_array_equal(value, alone[1][name], err_msg=name)


def test_strict_is_close_to_fast(alone):
    losses, state = train(1, MeshShape(1), reduction="fast")
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    for name, value in state.items():
        np.testing.assert_allclose(value, alone[1][name], atol=2e-5, err_msg=name)


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
