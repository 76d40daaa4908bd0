"""The train state, one tree that is exactly the checkpoint, and its sharding over a mesh."""

from typing import Any

import flax.struct
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unified_jax.sharding import Rules, parameter_shardings
from unified_jax.typing import Params


@flax.struct.dataclass
class State:
    """The state that a run carries from step to step. It holds no key and no iterator."""

    step: Any
    """int32 scalar: steps done; also the index of the next batch.

    (Trees of shapes and shardings use this class too.)
    """
    params: Params
    ema: tuple[Params, ...]
    opt_state: Any
    aux: Any
    balance: Any


def state_shardings(mesh: Mesh, rules: Rules, axes: Any, shapes: State) -> State:
    """A sharding per leaf: whatever mirrors a parameter (moments, EMA) is sharded like it, the rest is replicated.

    A leaf mirrors a parameter if its path ends in the parameter's and their shapes agree.
    """
    cut = parameter_shardings(mesh, rules, axes, shapes.params)
    sizes = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(shapes.params)}
    known = {path: (sizes[path], sharding) for path, sharding in jax.tree_util.tree_leaves_with_path(cut)}
    replicated = NamedSharding(mesh, PartitionSpec())

    def leaf(path: tuple[Any, ...], value: Any) -> NamedSharding:
        for start in range(len(path)):
            shape, sharding = known.get(path[start:], (None, replicated))
            if shape == value.shape:
                return sharding
        return replicated

    return jax.tree_util.tree_map_with_path(leaf, shapes)
