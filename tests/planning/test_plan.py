"""Plans: counts against arithmetic, the reading of HLO, and what is said of bad targets.

With libtpu (`make aot`) a step is also compiled for a pod; without it that test says "not verified".
"""

import dataclasses
import functools
import importlib.util
import json
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import EXPERIMENT, call_of
from unified_jax.cli import plan
from unified_jax.cli.entry import run_command
from unified_jax.errors import UserError
from unified_jax.modalities.image import Image
from unified_jax.networks.dit import dit_preset
from unified_jax.planning import search
from unified_jax.planning.collectives import Moved, collectives
from unified_jax.planning.hardware import CHIPS, Chip, Target, parse_target
from unified_jax.planning.plan import forecast
from unified_jax.planning.search import candidates
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.flops import count_flops
from unified_jax.training.program import assemble

HERE = Chip("a CPU that says it has", 4.0 * 2**30, 1e12, 1e11, 1e10)
LITTLE = dataclasses.replace(HERE, memory=1000.0)


def here(mesh, **changes):
    experiment = dataclasses.replace(EXPERIMENT, mesh=mesh, **changes)
    return experiment, Target("cpu:8", HERE, jax.devices())


def test_state_bytes_are_arithmetic():
    experiment, target = here(MeshShape(data=2, fsdp=4))
    found = forecast(experiment, target)
    program = assemble(experiment, make_mesh(experiment.mesh))
    by_hand = 0
    for shape, cut in zip(
        jax.tree.leaves(program.shapes.params), jax.tree.leaves(program.shardings.params), strict=True
    ):
        parts = 4 if "fsdp" in str(cut.spec) else 1
        by_hand += 4 * shape.size // parts
    assert found["bytes"]["params"] == by_hand
    averages = len(experiment.ema)
    assert found["bytes"]["ema"] == averages * by_hand
    assert abs(found["bytes"]["optimizer"] - 2 * by_hand) <= 64  # two moments and a few counters
    assert found["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(program.shapes.params))
    assert found["chips"] == 8
    assert found["fits"]


@functools.cache
def on_little_memory():
    """The forecast for eight chips that hold a thousand bytes each."""
    experiment, target = here(MeshShape(data=8))
    return forecast(experiment, dataclasses.replace(target, chip=LITTLE))


def test_what_does_not_fit_is_said():
    found = on_little_memory()
    assert not found["fits"]
    text = plan.describe(found, EXPERIMENT)
    assert "does not fit" in text and "frozen" not in text
    stage = plan.describe(found | {"bytes": found["bytes"] | {"frozen": 2**30}}, EXPERIMENT)
    assert "frozen           1.00 GiB" in stage


def test_candidates_divide_the_chips_and_fit(monkeypatch):
    experiment, target = here(MeshShape())
    traced = functools.cache(functools.partial(search._trace, target=target))
    monkeypatch.setattr(search, "_trace", lambda one, target: traced(one))  # on whatever chips, by one device
    assert candidates(experiment, dataclasses.replace(target, chip=LITTLE)) == []
    found = candidates(experiment, target)
    assert {one.mesh.data * one.mesh.fsdp * one.mesh.tensor for one in found} == {8}
    assert len({(one.mesh, one.model.network.remat, one.batch_size) for one in found}) == len(found) >= 12
    assert {one.batch_size for one in found} == {4, 8, 16}
    assert found[0].model.network.remat == "none"  # where all fit, nothing is computed twice


@pytest.mark.parametrize("recipe", ["quickstart", "world_control", "caption_encoder", "gan_gaussians", "world_tiny"])
def test_policies_are_those_of_the_network_with_blocks(recipe):
    """Behind a network of its own, around another one, and where a model has none."""
    experiment = runpy.run_path(f"configs/{recipe}.py")["experiment"]()
    changed = search._with(experiment, "offload")
    if hasattr(search.blocks_of(experiment), "remat"):
        assert search.blocks_of(changed).remat == "offload"
        assert type(changed.model.network) is type(experiment.model.network)
        assert recipe in ("quickstart", "world_control", "world_tiny")
    else:
        assert changed is experiment
    meshes = {mesh.tensor for mesh, _ in search._meshes(experiment, 4)}
    assert meshes == ({1, 2, 4} if getattr(search.blocks_of(experiment), "heads", 1) % 4 == 0 else {1})


def test_flops_are_those_that_are_counted_by_hand():
    """DiT-XL/2 at 256 tokens: 118.6 billion multiply-adds (Peebles & Xie, table 4)."""
    net = dit_preset("XL")
    given = call_of(Image(32, 32, 4, 2), jnp.zeros((1, 32, 32, 4)), jnp.zeros(1), ((1001, jnp.zeros(1)),), outputs=8)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), *given))
    found = count_flops(lambda p: net.apply(p, *given), params)
    d, n, depth = 1152, 256, 28
    block = 2 * n * (12 * d * d) + 4 * n * n * d + 2 * d * 6 * d
    edges = 2 * n * d * (16 + 32) + 2 * (256 * d + d * d) + 2 * d * 2 * d
    assert found == pytest.approx(depth * block + edges, rel=0.01)
    assert found == pytest.approx(2 * 118.64e9, rel=0.01)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_flops_of_a_step_are_three_forward_passes_or_four(remat):
    model = dataclasses.replace(EXPERIMENT.model, network=EXPERIMENT.model.network.clone(depth=8, remat=remat))
    experiment, _ = here(MeshShape(), model=model)
    program = assemble(experiment, make_mesh(experiment.mesh))
    with experiment.rules.active(program.mesh):
        batch, key = program.abstract_batch(), jax.eval_shape(lambda: jax.random.key(0))
        step = count_flops(program.step, program.abstract_state(), {}, batch, key)
        forward = count_flops(lambda p, b, k: model.losses(p, {}, b, k)[0], program.shapes.params, batch, key)
    assert step == pytest.approx((3 if remat == "none" else 4) * forward, rel=0.1)


def test_flops_of_a_kernel_are_those_it_states():
    from unified_jax.kernels import choice

    q = jax.ShapeDtypeStruct((2, 256, 4, 64), jnp.float32)
    counts = [count_flops(lambda q, a=a: choice.attend(q, q, q, attention=a)[0], q) for a in ("xla", "pallas")]
    assert counts[0] == counts[1] == 4 * 2 * 4 * 256 * 256 * 64


MODULE = """
HloModule step

%cond.1 (arg: (s32[], f32[4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%body.1 (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %g = bf16[8,16]{1,0} all-gather(%x), replica_groups=[4,2]<=[8], dimensions={0}
  %h = f32[10]{0} all-reduce(%y), replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_1'}
}

%body.2 (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = f32[4]{0} reduce-scatter(%z), replica_groups={{0,2,4,6},{1,3,5,7}}, dimensions={0}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]) while(%t), condition=%cond.1, body=%body.1
  %v = (s32[], f32[4]) while(%t), condition=%cond.1, body=%body.2, backend_config={"known_trip_count":{"n":"3"}}
  %a = ((f32[3]{0}, f32[5]{0}), (f32[6]{0}, f32[10]{0})) all-gather-start(%m, %n), replica_groups={{0,1},{2,3}}
  %r = (f32[7]{0}, f32[9]{0}) all-reduce-start(%m, %n), replica_groups={{0,1,2,3,4,5,6,7}}
  %c = f32[6]{0} collective-permute(%p), source_target_pairs={{0,0},{1,0},{2,3}}
}
"""


def test_collectives_are_read_from_hlo():
    found = {(m.axis, m.kind): m for m in collectives(MODULE, {"data": 4, "fsdp": 2})}
    assert found["fsdp", "all-gather"] == Moved("fsdp", "all-gather", 5 * 8 * 16 * 2 / 2 + 16 * 4 / 2, 6)
    assert found["dataxfsdp", "all-reduce"] == Moved("dataxfsdp", "all-reduce", 2 * 16 * 4 * 7 / 8, 1)
    assert found["data", "all-reduce"] == Moved("data", "all-reduce", 5 * 2 * 40 * 3 / 4, 5)
    assert found["data", "reduce-scatter"] == Moved("data", "reduce-scatter", 3 * 64 * 3 / 4, 3)
    assert found["fsdp", "collective-permute"] == Moved("fsdp", "collective-permute", 24.0, 1)


def test_the_gradient_s_sum_over_devices_is_seen():
    found = on_little_memory()
    moved = sum(m["bytes"] for m in found["collectives"] if m["axis"] == "data" and m["kind"] == "all-reduce")
    assert moved == pytest.approx(2 * 4 * found["parameters"] * 7 / 8, rel=0.1)


@pytest.mark.parametrize("text", ["v5p", "v5p:", "v9:2x2", "v5p:0x8", "h200:2x2", "v5e:8", "h200:-1"])
def test_targets_that_do_not_exist_are_named(text):
    with pytest.raises(UserError, match=r"Unknown target .*expected KIND:SHAPE"):
        parse_target(text)


def test_bad_requests_end_with_a_sentence(capfd):
    assert run_command(plan.main, ["quickstart", "--target", "v7:2x2"]) == 2
    assert run_command(plan.main, []) == 2
    said = capfd.readouterr().err
    assert "Unknown target 'v7:2x2'" in said
    assert "Usage: unified-jax plan" in said
    if importlib.util.find_spec("libtpu") is None:
        assert run_command(plan.main, ["quickstart", "--target", "v5e:2x2"]) == 2
        assert "pip install 'jax[tpu]'" in capfd.readouterr().err


@pytest.mark.parametrize("target", ["v5p:2x2x2", pytest.param("v6e:2x4", marks=pytest.mark.slow)])
def test_a_pod_that_is_not_there(target, capfd):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("not verified: libtpu is not installed here (make aot)")
    assert run_command(plan.main, ["quickstart", "--target", target, "--mesh.fsdp", "2", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["chips"] == 8
    assert found["fits"]
    assert found["step_seconds"]["value"] > 0
    assert {m["axis"] for m in found["collectives"]} & {"data", "fsdp"}
    assert found["bytes"]["limit"] == CHIPS[target.split(":")[0]].memory
    assert np.isfinite(found["share_of_peak"])
