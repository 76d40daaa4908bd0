r"""Strict reduction: losses and parameters that are bitwise identical on 1, 2, 4 or 8 devices.

A sum of floats depends on its order, and a compiler chooses it by the shapes and the number of devices. So
the batch is divided into a fixed number V of virtual shards, independent of the devices: shard v is rows
[v b / V, (v + 1) b / V). The gradient of one shard is a program for one device, compiled the same everywhere. Every
device runs it for its shards, one after the other, and the V results are added in one fixed binary tree:

    ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))

The lower levels are within a device; in the upper ones a device and its partner d xor 2^k exchange their sums and both
add them (a + b = b + a bitwise), so that all obtain the same total. The update is again a program for one device,
which every device runs in full. Only the exchange is a program of several devices, and it only adds.

Gradient accumulation has no effect: the shards are the microbatches. Between steps the state may be sharded over
`fsdp`; within a step every device holds all of it, its gradient and log2(V / devices) partial sums. A program is
compiled once per device. What this costs is in docs/launch.md.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from unified_jax.errors import UserError
from unified_jax.models.base import Model
from unified_jax.precision import seed_key
from unified_jax.sharding import MESH_AXES
from unified_jax.training.balancing import Balance
from unified_jax.training.state import State
from unified_jax.training.step import Optimizer, averages, in_order, losses_of, scales, shown_weights, update
from unified_jax.typing import Batch, Params

AXES = ("data", "fsdp")


def check_strict(mesh: Mesh, rows: int, shards: int) -> None:
    """Raises UserError if the strict reduction does not support this batch on this mesh."""
    if mesh.shape["tensor"] * mesh.shape["sequence"] > 1:
        raise UserError("--reduction strict works over data and fsdp; tensor and sequence must be 1.")
    if shards < 1 or shards & (shards - 1):
        raise UserError(f"--virtual-shards must be a power of two, found {shards}.")
    if rows % shards:
        raise UserError(
            f"--reduction strict splits a batch into {shards} virtual shards, but it has {rows} rows; choose a batch "
            "size that they divide, or fewer --virtual-shards."
        )
    if shards % mesh.size:
        raise UserError(
            f"--reduction strict with {shards} virtual shards runs on a number of devices that divides them, found "
            f"{mesh.size}."
        )


@dataclass(frozen=True)
class Summed:
    """The result of one shard, or the sum over several."""

    gradient: Any
    sums: dict[str, Array]
    statistics: Any
    extra: Any


jax.tree_util.register_dataclass(Summed)


def shard_weights(model: Model, state: State, frozen: Params, rows: Batch, key: Array) -> dict[str, Array]:
    """Sum of the weights of every loss term over one shard, `[1]`."""
    run = losses_of(model, state, frozen, jax.random.fold_in(key, state.step))
    return {name: weight[None] for name, weight in run(state.params, rows).weights.items()}


def shard_gradient(
    model: Model, balance: Balance, state: State, frozen: Params, rows: Batch, key: Array, weights: Any
) -> Summed:
    """One shard's part of the gradient and of the sums, `[1, ...]`; `weights` are those of the batch."""
    _, scale = scales(balance, state, {name: weight[0] for name, weight in weights.items()})

    def objective(params: Params) -> tuple[Any, Any]:
        found = run(params, rows)
        return sum(scale[name] * total for name, total in found.totals.items()), found

    run = losses_of(model, state, frozen, jax.random.fold_in(key, state.step))
    gradient, found = jax.grad(objective, has_aux=True)(state.params)
    return jax.tree.map(lambda x: x[None], Summed(gradient, found.totals, found.statistics, found.extra))


def finish(
    model: Model, optimizer: Optimizer, balance: Balance, state: State, total: Summed, weights: Any
) -> tuple[State, dict[str, Array]]:
    """The state and metrics after a step, from the sums over all shards."""
    divisor, scale = scales(balance, state, {name: weight[0] for name, weight in weights.items()})
    total = jax.tree.map(lambda x: x[0], total)
    value = jnp.asarray(sum(scale[name] * s for name, s in total.sums.items()))
    terms = {name: s / divisor[name] for name, s in total.sums.items()}
    gradient, balanced = balance.settle(state.balance, in_order(terms), total.gradient, {}, seed_key(0))
    extra = averages(total.extra) | shown_weights(balance, state, terms)
    aux = model.settle_aux(state.aux, total.statistics)
    return update(optimizer, state, value, gradient, terms, aux, balanced, extra)


class StrictStep:
    """(state, frozen, batch, key) -> (state, metrics), like the jitted step of the fast reduction."""

    def __init__(
        self, model: Model, optimizer: Optimizer, balance: Balance, shards: int, mesh: Mesh, cut: State
    ) -> None:
        self.mesh, self.local = mesh, shards // mesh.size
        self.whole, self.rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXES))
        self.alone = [_mesh_of(device) for device in mesh.local_devices]
        self.gather = jax.jit(lambda state_and_frozen: state_and_frozen, out_shardings=self.whole)
        self.scatter = jax.jit(lambda state: state, out_shardings=cut)
        self.model, self.optimizer, self.balance = model, optimizer, balance
        exchange = jax.shard_map(
            functools.partial(_exchange, mesh.size), mesh=mesh, in_specs=PartitionSpec(AXES),
            out_specs=PartitionSpec(AXES), check_vma=False,
        )  # fmt: skip
        self.exchange = jax.jit(exchange, donate_argnums=0)

    def __call__(self, state: State, frozen: Params, batch: Batch, key: Array) -> tuple[State, dict[str, Array]]:
        """One step; the state is donated."""
        held, rows = self._held((*self.gather((state, frozen)), key)), self._held(batch)

        def weigh(i: int, part: Batch) -> Any:
            s, f, k = held[i]
            return _weights(self.model, s, f, part, k)

        def differentiate(i: int, part: Batch) -> Any:
            s, f, k = held[i]
            return _gradient(self.model, self.balance, s, f, part, k, weights[i])

        weights = self._sum(rows, weigh)
        total = self._sum(rows, differentiate)
        done = self._each(lambda i: _finish(self.model, self.optimizer, self.balance, held[i][0], total[i], weights[i]))
        new, metrics = self._joined(done, self.whole)
        return self.scatter(new), metrics

    def _each(self, run: Callable[[int], Any]) -> list[Any]:
        """`run(i)` for this process' i-th device, compiled for this device."""
        results = []
        for i, mesh in enumerate(self.alone):
            with jax.set_mesh(mesh):
                results.append(run(i))
        return results

    def _held(self, tree: Any) -> list[Any]:
        """A tree of global arrays as each of this process' devices holds it."""
        devices = self.mesh.local_devices
        leaves, form = jax.tree.flatten(tree)
        parts = [{s.device: s.data for s in leaf.addressable_shards} for leaf in leaves]
        return [form.unflatten([part[device] for part in parts]) for device in devices]

    def _joined(self, parts: list[Any], sharding: NamedSharding) -> Any:
        """The global arrays of which each device holds its part, sharded along their first axis or replicated."""
        size = self.mesh.size if sharding is self.rows else 1

        def leaf(*held: Array) -> Array:
            shape = (size * held[0].shape[0], *held[0].shape[1:]) if sharding is self.rows else held[0].shape
            return jax.make_array_from_single_device_arrays(shape, sharding, list(held))

        return jax.tree.map(leaf, *parts)

    def _sum(self, rows: list[Batch], shard: Callable[[int, Batch], Any]) -> list[Any]:
        """The sum over all shards of all devices, on each of this process' devices."""

        def own(i: int) -> Any:
            return self._tree([shard(i, _take(rows[i], np.int32(v), self.local)) for v in range(self.local)])

        sums = self._each(own)
        return sums if self.mesh.size == 1 else self._held(self.exchange(self._joined(sums, self.rows)))

    def _tree(self, values: list[Any]) -> Any:
        while len(values) > 1:
            values = [_add(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
        return values[0]


def _cut_out(rows: Batch, index: Array, count: int) -> Batch:
    def leaf(x: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, index * (x.shape[0] // count), x.shape[0] // count)

    return jax.tree.map(leaf, rows)


_weights = jax.jit(shard_weights, static_argnums=0)
_gradient = jax.jit(shard_gradient, static_argnums=(0, 1))
_finish = jax.jit(finish, static_argnums=(0, 1, 2), donate_argnums=3)
_add = jax.jit(functools.partial(jax.tree.map, jnp.add), donate_argnums=0)
_take = jax.jit(_cut_out, static_argnums=2)


def _exchange(devices: int, total: Any) -> Any:
    for k in range(devices.bit_length() - 1):
        pairs = [(d, d ^ (1 << k)) for d in range(devices)]
        total = jax.tree.map(lambda x: x + jax.lax.ppermute(x, AXES, pairs), total)  # noqa: B023
    return total


def _mesh_of(device: Any) -> Mesh:
    kinds = (AxisType.Auto,) * len(MESH_AXES)
    return Mesh(np.asarray([device]).reshape((1,) * len(MESH_AXES)), MESH_AXES, axis_types=kinds)
