"""Whether the numbers of a state are finite: checked before a save and after a restore, never inside a step.

A finite loss and a finite gradient do not make a finite update: a moment or a parameter may overflow. On accelerators
one program checks every array in place; on CPUs NumPy does, without compilation.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, Bool

SHOWN = 3
"""Most arrays that a message names."""


def not_finite(tree: Any) -> list[str]:
    """Paths ("params/blocks/mlp/fc1/kernel") of the arrays with a number that is not finite.

    In a run of several processes each must call it; on CPUs each answers for the parts that it holds.
    """
    named = jax.tree_util.tree_leaves_with_path(tree)
    named = [(path, leaf) for path, leaf in named if jnp.issubdtype(leaf.dtype, jnp.floating)]
    leaves = [leaf for _, leaf in named]
    if all(device.platform == "cpu" for leaf in leaves[:1] for device in leaf.sharding.device_set):
        good = [_own_parts_finite(leaf) for leaf in leaves]
    else:
        good = finite_by_program(leaves)
    names = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in named)
    return [name for name, fine in zip(names, good, strict=True) if not fine]


def told(names: list[str]) -> str:
    """The first of them, for a sentence."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def finite_by_program(leaves: list[Array]) -> Bool[np.ndarray, "n"]:
    """Whether each array is finite, by one program in place; the same answer in every process."""
    cut = leaves[0].sharding
    whole = NamedSharding(cut.mesh, PartitionSpec()) if isinstance(cut, NamedSharding) else cut
    return np.asarray(jax.device_get(_program(whole)(leaves)))


@functools.cache
def _program(whole: Sharding) -> Any:
    return jax.jit(lambda leaves: jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]), out_shardings=whole)


def _own_parts_finite(leaf: Array) -> bool:
    """Of an array on CPUs: the parts that this process holds, each once."""
    parts = (shard.data for shard in leaf.addressable_shards if shard.replica_id == 0)
    return all(bool(np.isfinite(np.asarray(part)).all()) for part in parts)
