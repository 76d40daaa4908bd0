r"""The cost of a run, ahead of time and without the hardware: the train step compiled for a target.

Bytes are per chip. Parameters, optimizer and EMAs are exact, from their shapes and shardings; the compiler reports the
memory that it needs in addition. Of that, activations are estimated: what the backward pass keeps, over all devices.
The rest (gradients, workspace) counts as temporaries.

Seconds are the compiler's own estimate if it gives one (TPU). Its analysis counts the body of a scan once. So the
estimate, less one read and write of the state, is scaled by the step's FLOPs over the counted ones.
Otherwise (GPU) they are a roofline: the longest of products, memory and links at the data sheet's rates.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from unified_jax.models.stages import merged
from unified_jax.planning.collectives import Moved, collectives
from unified_jax.planning.hardware import Chip, Target
from unified_jax.precision import seed_key
from unified_jax.runs.memory import state_bytes
from unified_jax.sharding import make_mesh
from unified_jax.training.experiment import Experiment
from unified_jax.training.flops import count_flops
from unified_jax.training.program import Program, assemble


def forecast(experiment: Experiment, target: Target) -> dict[str, Any]:
    """The figures of one experiment on one target, all plain values."""
    program = assemble(experiment, make_mesh(experiment.mesh, target.devices))
    chips, axes = len(target.devices), dict(program.mesh.shape)
    flops = step_flops(program)
    kept = kept_bytes(program) / chips
    compiled, refusal = _compile(program)
    held = state_bytes(program.shapes, program.shardings, program.abstract_frozen())
    memory = None if compiled is None else compiled.memory_analysis()
    temporary = 0 if memory is None else memory.temp_size_in_bytes
    activations = kept if memory is None else min(kept, temporary)
    state = sum(held.values())
    others = 0 if memory is None else max(0, memory.argument_size_in_bytes - state)
    total = float(state + others + (kept if memory is None else temporary))
    moved = [] if compiled is None else collectives(compiled.as_text(), axes)
    found = {
        "target": target.text,
        "chips": chips,
        "mesh": axes,
        "bytes": held
        | {
            "batch": others,
            "activations": round(activations),
            "temporaries": round(max(0, temporary - activations)),
            "total": round(total),
            "limit": round(target.chip.memory),
        },
        "parameters": program.parameters,
        "flops_per_step": flops,
        "collectives": [dataclasses.asdict(m) for m in moved],
        "fits": compiled is not None and total <= target.chip.memory,
        "refusal": refusal,
    }
    found["step_seconds"] = None
    if compiled is not None:
        found |= _speed(experiment, target, compiled, flops, (float(state), total), moved)
    return found


def arguments_of(program: Program) -> tuple[Any, ...]:
    """Shapes of the step's arguments."""
    replicated = NamedSharding(program.mesh, PartitionSpec())
    shape = jax.eval_shape(lambda: seed_key(0))
    key = jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=replicated)
    return program.abstract_state(), program.abstract_frozen(), program.abstract_batch(), key


def step_flops(program: Program) -> float:
    """FLOPs of a train step, from shapes only."""
    arguments = arguments_of(program)  # the shapes of stages: nothing is computed on devices that are not there
    with program.experiment.rules.active(program.mesh):
        return count_flops(program.fast, *arguments)


def _compile(program: Program) -> tuple[Any, str | None]:
    """(the compiled step, None), or (None, the compiler's message) if it does not fit."""
    arguments = arguments_of(program)
    with program.experiment.rules.active(program.mesh):
        lowered = program.fast.lower(*arguments)
        try:
            return lowered.compile(), None
        except Exception as error:  # the compilers raise any exception
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return None, " ".join(str(error).split())[:300]


def kept_bytes(program: Program) -> float:
    """Bytes that the backward pass keeps over all devices: residuals of the gradient except the parameters."""
    experiment = program.experiment
    key = jax.eval_shape(lambda: seed_key(0))

    def loss(params: Any, frozen: Any, batch: Any, key: Any) -> Any:
        terms, _, _ = experiment.trained.losses(merged(params, frozen), program.shapes.aux, batch, key)
        return sum(jnp.sum(total) for total, _ in terms.values())

    batch = {name: jax.ShapeDtypeStruct(s.shape, s.dtype) for name, s in program.abstract_batch().items()}
    params = program.shapes.params
    frozen = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), program.abstract_frozen())
    with experiment.rules.active(program.mesh):
        kept = jax.eval_shape(lambda p, f, b, k: jax.vjp(lambda p: loss(p, f, b, k), p)[1], params, frozen, batch, key)
    weights = {leaf.shape for leaf in jax.tree.leaves((params, frozen))}
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept) if leaf.shape not in weights]
    return sum(sizes) / experiment.accumulate


def _speed(
    experiment: Experiment, target: Target, compiled: Any, flops: float, sizes: tuple[float, float], moved: list[Moved]
) -> dict[str, Any]:
    (held, total), chips, chip = sizes, len(target.devices), target.chip
    once = 2 * held / chip.bandwidth
    seconds, source = _compiler_seconds(compiled, flops / chips, once), "compiler, scaled to all blocks"
    if seconds is None:
        seconds, source = _roofline(chip, flops / chips, total, sum(m.bytes for m in moved)), "roofline (estimated)"
    packer = experiment.model.packer
    rows = experiment.batch_size // (packer.policy.per_row if packer else 1)
    rate = {"tokens_per_second": rows * packer.length / seconds} if packer else {}
    return rate | {
        "step_seconds": {"value": seconds, "source": source},
        "share_of_peak": flops / (chips * chip.flops * seconds),
        "examples_per_second": experiment.batch_size / seconds,
        "chip_hours": chips * seconds * experiment.steps / 3600,
    }


def _roofline(chip: Chip, flops: float, touched: float, moved: float) -> float:
    """Seconds: the longest of products, one pass over the memory in use, and links."""
    return max(flops / chip.flops, 2 * touched / chip.bandwidth, moved / chip.links)


def _compiler_seconds(compiled: Any, flops: float, once: float) -> float | None:
    """The compiler's estimate for all of a device's FLOPs, or None; `once` are seconds outside of loops."""
    cost = compiled.cost_analysis() or {}
    cost = cost[0] if isinstance(cost, list) else cost
    seconds, counted = cost.get("optimal_seconds") or 0.0, cost.get("flops") or 0.0
    if seconds <= 0 or counted <= 0:
        return None
    once = min(once, seconds)
    return float(once + (seconds - once) * max(1.0, flops / counted))
