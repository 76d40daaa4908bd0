"""Search for mesh, batch and rematerialisation: arithmetic preselects candidates, which are compiled and ranked.

Candidates: `tensor` 1, 2, 4, `sequence` 1, 2 (rows of tokens), `fsdp` by powers of two, `data` the rest; every remat
policy, of a network that has them; the batch unchanged, halved and doubled. Those whose state and kept activations do
not fit are dropped. The rest are ordered by an estimate of examples per second, T = max(products / peak, traffic /
links), with P the bytes of the parameters in float32 on a chip's part of `tensor`:

    products    counted in the step, with recomputation
    fsdp        each parameter gathered twice and its gradient scattered: 3 P
    data        the gradient of a chip's part reduced: 2 P / fsdp
    tensor      8 sums of the activations per block (they are the network's width wide)
    sequence    keys and values of a block gathered, and their gradients

The estimate only selects what is compiled; the ranking is the compiler's.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, get_args

import jax

from unified_jax.errors import UserError
from unified_jax.layers.remat import Remat
from unified_jax.planning.hardware import Target
from unified_jax.planning.plan import forecast, kept_bytes, step_flops
from unified_jax.runs.memory import state_bytes
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.experiment import Experiment
from unified_jax.training.program import Program, assemble, check_batch, check_trains, frozen_layout
from unified_jax.training.state import state_shardings

POLICIES = get_args(Remat)


def search(
    experiment: Experiment, target: Target, most: int, say: Callable[[int, int, Experiment], None]
) -> list[dict[str, Any]]:
    """Forecasts of the `most` likeliest candidates, those that fit first, by examples per second.

    `say(i, n, experiment)` is called before each.
    """
    check_trains(experiment)
    chosen = candidates(experiment, target)[:most]
    found = []
    for i, one in enumerate(chosen):
        say(i, len(chosen), one)
        remat = getattr(blocks_of(one), "remat", None)
        found.append(forecast(one, target) | {"remat": remat, "batch_size": one.batch_size})
    return sorted(found, key=lambda f: (not f["fits"], -f.get("examples_per_second", 0.0)))


def candidates(experiment: Experiment, target: Target) -> list[Experiment]:
    """Candidates that divide the chips, the parameters and the batch, and could fit; the likeliest first."""
    weighted: list[tuple[float, int, Experiment]] = []
    policies = POLICIES if hasattr(blocks_of(experiment), "remat") else (None,)
    traced = {remat: _trace(_with(experiment, remat), target) for remat in policies}
    shapes, axes = traced[policies[0]][0].shapes, experiment.model.axes()
    for mesh, batch in _meshes(experiment, len(target.devices)):
        made = make_mesh(mesh, target.devices)
        one = dataclasses.replace(experiment, mesh=mesh, batch_size=batch)
        try:
            check_batch(one, made)
            frozen = frozen_layout(one.trained, made, one.rules)
            held = sum(state_bytes(shapes, state_shardings(made, one.rules, axes, shapes), frozen).values())
        except UserError:
            continue
        for remat, (program, kept, flops) in traced.items():
            share = batch / experiment.batch_size
            if held + share * kept / len(target.devices) <= target.chip.memory:
                seconds = _guess(program, target, mesh, share, flops)
                weighted.append((batch / seconds, len(weighted), _with(one, remat)))
    return [one for _, _, one in sorted(weighted, key=lambda w: (-w[0], w[1]))]


def blocks_of(experiment: Experiment) -> Any:
    """The network with blocks: the model's, or the one that it is built around; None where there is none."""
    network = getattr(experiment.model, "network", None)
    inner = _inner(network)
    return getattr(network, inner) if inner else network


def _inner(network: Any) -> str:
    """The field of a network without a policy of its own whose network has one; "" for none."""
    if not dataclasses.is_dataclass(network) or hasattr(network, "remat"):
        return ""
    names = [field.name for field in dataclasses.fields(network) if field.name not in ("parent", "name")]
    return next((name for name in names if hasattr(getattr(network, name), "remat")), "")


def _with(experiment: Experiment, remat: Any) -> Experiment:
    model: Any = experiment.model
    blocks = blocks_of(experiment)
    if not hasattr(blocks, "remat"):
        return experiment
    chosen = blocks.clone(remat=remat)
    inner = _inner(model.network)
    network = model.network.clone(**{inner: chosen}) if inner else chosen
    return dataclasses.replace(experiment, model=dataclasses.replace(model, network=network))


def _trace(experiment: Experiment, target: Target) -> tuple[Program, float, float]:
    """(program on one device, bytes that its backward pass keeps, FLOPs): the same for every mesh, per example."""
    alone = dataclasses.replace(experiment, mesh=MeshShape(1), reduction="fast")
    program = assemble(alone, make_mesh(alone.mesh, target.devices[:1]))
    kept = kept_bytes(program)
    offloaded = getattr(blocks_of(experiment), "remat", None) == "offload"
    return program, 0.0 if offloaded else kept, step_flops(program)


def _meshes(experiment: Experiment, chips: int) -> Iterator[tuple[MeshShape, int]]:
    """Meshes and batches."""
    heads = getattr(blocks_of(experiment), "heads", 1)
    batches = [b for b in (experiment.batch_size, experiment.batch_size * 2, experiment.batch_size // 2) if b]
    for tensor in (1, 2, 4):
        for sequence in (1, 2) if experiment.model.packer else (1,):
            for fsdp in (2**i for i in range(chips.bit_length())):
                inner = fsdp * tensor * sequence
                if chips % inner == 0 and heads % tensor == 0:
                    mesh = MeshShape(chips // inner, fsdp, tensor, sequence)
                    yield from ((mesh, batch) for batch in batches if batch % experiment.accumulate == 0)


def _guess(program: Program, target: Target, mesh: MeshShape, share: float, flops: float) -> float:
    """Seconds per step, for `share` of the program's batch; see above."""
    chips, chip, network = len(target.devices), target.chip, blocks_of(program.experiment)
    packer = program.experiment.model.packer
    tokens = share * program.rows * (packer.length if packer else 256) / (mesh.data * mesh.fsdp * mesh.sequence)
    part = 4.0 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.shapes.params)) / mesh.tensor
    block = 2.0 * tokens * getattr(network, "width", 0) * getattr(network, "depth", 0)
    traffic = 3 * part * (mesh.fsdp > 1) + 2 * part / mesh.fsdp * (mesh.data > 1)
    traffic += 8 * block * (mesh.tensor > 1) + 4 * block * (mesh.sequence - 1)
    return max(share * flops / chips / chip.flops, traffic / chip.links)
