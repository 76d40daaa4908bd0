from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from unified_jax.errors import UserError
from unified_jax.sharding import MeshShape, Rules, _over_slices, constrain, make_mesh, parameter_shardings


def test_rules_map_and_refuse():
    rules = Rules()
    assert rules.parameter_spec(("layers", "embed", "heads", None, "head_dim")) == P(None, "fsdp", "tensor", None, None)
    assert rules.activation_spec(("batch", "length", "embed")) == P(("data", "fsdp"), "sequence", None)
    with pytest.raises(ValueError, match="collide"):
        rules.parameter_spec(("heads", "mlp"))
    with pytest.raises(ValueError, match="Unknown logical axis 'emebd'"):
        rules.parameter_spec(("emebd",))
    with pytest.raises(ValueError, match="unknown mesh axes"):
        Rules(parameters=(("embed", ("fsdpp",)),))


def test_constrain_checks_names_even_without_a_mesh():
    x = jnp.zeros((2, 3))
    assert constrain(x, "batch", "embed") is x
    with pytest.raises(ValueError, match="Unknown logical axis"):
        constrain(x, "batch", "embedd")
    with pytest.raises(ValueError, match="needs 2 axis names"):
        constrain(x, "batch")


def test_constrain_lays_out_inside_active_rules():
    mesh = make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    with Rules().active(mesh):
        y = jax.jit(lambda x: constrain(x, "batch", "length", "mlp"))(jnp.zeros((8, 4, 6)))
    assert y.sharding.shard_shape(y.shape) == (2, 4, 3)


def test_mesh_shapes():
    assert MeshShape().resolve(8) == (8, 1, 1, 1)
    assert MeshShape(data=2, fsdp=-1, tensor=2).resolve(8) == (2, 2, 2, 1)
    with pytest.raises(UserError, match="does not fit 8 device"):
        MeshShape(data=3).resolve(8)
    with pytest.raises(UserError, match="does not fit 8 device"):
        MeshShape(tensor=3).resolve(8)
    with pytest.raises(ValueError, match="at most one of them -1"):
        MeshShape(data=-1, fsdp=-1)


def test_a_mesh_that_does_not_divide_a_parameter_names_it():
    mesh = make_mesh(MeshShape(data=1, tensor=8))
    shape = jax.ShapeDtypeStruct((4, 6), jnp.float32)
    with pytest.raises(UserError, match=r"'heads' of parameter \['w'\] into 8 parts, but its size is 6"):
        parameter_shardings(mesh, Rules(), {"w": (None, "heads")}, {"w": shape})


def test_data_runs_over_slices_where_it_can():
    """Slices of a pod, or hosts: their devices are only looked at."""

    @dataclass(frozen=True)
    class Device:
        id: int
        slice_index: int
        process_index: int = 0
        device_kind: str = "cpu"
        platform: str = "cpu"

    devices = [Device(i, i % 2) for i in range(8)]
    slow = [[d.slice_index for d in row] for row in _over_slices((2, 4, 1, 1), 2, devices).reshape(2, 4)]
    assert slow in ([[0] * 4, [1] * 4], [[1] * 4, [0] * 4])
    assert [d.slice_index for d in _over_slices((1, 8, 1, 1), 2, devices).reshape(-1)] == [0] * 4 + [1] * 4
