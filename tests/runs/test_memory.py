"""A state far too large for the machine is refused in a sentence, with the numbers and the largest parts."""

from types import SimpleNamespace

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from unified_jax.errors import UserError
from unified_jax.runs import memory
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.state import State

MESH = make_mesh(MeshShape(data=1, fsdp=8))
CUT = NamedSharding(MESH, PartitionSpec("fsdp"))


def state(rows):
    """Shapes and shardings of a kernel, its moments and one average, cut over eight devices."""
    kernel, bias = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((rows, 1024), (8,)))
    one = {"blocks": {"kernel": kernel}, "bias": bias}
    shapes = State(jax.ShapeDtypeStruct((), "int32"), one, (one,), {"mu": one, "nu": one}, {}, {})
    return shapes, jax.tree.map(lambda s: CUT if s.shape else NamedSharding(MESH, PartitionSpec()), shapes)


def test_a_state_that_cannot_fit_is_refused_with_its_parts(monkeypatch):
    monkeypatch.setattr(memory, "machine_room", lambda root: 9 << 30)
    rows = (2 << 30) // 4096  # 2 GiB of parameters
    with pytest.raises(UserError) as refused:
        memory.check_state_fits(*state(rows), {}, MESH.local_devices)
    said = str(refused.value)
    assert "at least 10.0 GiB (parameters 2.0, optimizer 4.0, averages 2.0, gradient 2.0)" in said
    assert "this machine has 9.0 GiB left" in said
    assert f"blocks/kernel [{rows}, 1024], 2.00 GiB" in said and "--mesh.fsdp" in said
    memory.check_state_fits(*state(rows * 3 // 4), {}, MESH.local_devices)
    frozen = {"base": jax.ShapeDtypeStruct((rows, 1024), "float32", sharding=CUT)}
    with pytest.raises(UserError, match=r"frozen parameters 2\.0"):
        memory.check_state_fits(*state(rows * 3 // 4), frozen, MESH.local_devices)
    like = {"params": jax.ShapeDtypeStruct((rows * 5, 1024), "float32", sharding=CUT)}
    with pytest.raises(UserError, match=r"Reading this run needs at least 10\.0 GiB"):
        memory.check_params_fit(like, MESH.local_devices)


@pytest.mark.parametrize(("limit", "fits"), [(1 << 30, False), (2 << 30, True), (None, True)])
def test_a_device_of_its_own_memory_holds_its_part_alone(limit, fits):
    stats = None if limit is None else {"bytes_limit": limit, "bytes_in_use": 0}
    device = SimpleNamespace(platform="gpu", device_kind="H", memory_stats=lambda: stats)
    shapes, cuts = state((2 << 30) // 4096)  # 1.25 GiB a device
    if fits:
        memory.check_state_fits(shapes, cuts, {}, [device] * 8)
    else:
        with pytest.raises(UserError, match=r"at least 1\.3 GiB .* each H device has 1\.0 GiB left"):
            memory.check_state_fits(shapes, cuts, {}, [device] * 8)


def test_what_a_machine_has_left(tmp_path):
    assert memory.machine_room(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 900 kB\nMemAvailable:     600 kB\nSwapFree:  100 kB\n")
    assert memory.machine_room(tmp_path) == 700 << 10
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("300000\n")
    (group / "memory.max").write_text("max\n")
    assert memory.machine_room(tmp_path) == 700 << 10
    (group / "memory.max").write_text("500000\n")
    (group / "memory.stat").write_text("anon 5\ninactive_file 1000\n")
    assert memory.machine_room(tmp_path) == 201_000
