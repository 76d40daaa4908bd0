"""Sampling in batches with one compiled call; sample i depends only on (seed, i) and its conditions."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from unified_jax.hosts import lay
from unified_jax.models.base import Model
from unified_jax.precision import same_numbers, seed_key
from unified_jax.samplers.plan import Plan
from unified_jax.sharding import MESH_AXES, MeshShape, Rules, make_mesh
from unified_jax.typing import Params


def sample_keys(seed: int | Int[Array, ""], first: int | Int[Array, ""], count: int) -> jax.Array:
    """Keys of samples first .. first + count - 1: sample i of seed s has the key fold_in(seed_key(s), i)."""
    key = seed_key(seed)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(count))


@same_numbers()
def generate_many(
    model: Model,
    params: Params,
    given: dict[str, np.ndarray],
    wanted: tuple[str, ...],
    count: int,
    seed: int,
    plan: Plan,
    batch: int,
    rules: Rules,
    report: Callable[[int], Any] = lambda done: None,
    first: int = 0,
) -> dict[str, np.ndarray]:
    """`count` samples per wanted modality from index `first` on, in model space; with none wanted, free running.

    `given` holds one row per sample; `report(n)` after n more are done.

    A batch is sharded over all devices of all processes and rounded up to a multiple of them; a short last batch is
    padded.
    """
    mesh = make_mesh(MeshShape())
    batch = -(-min(batch, count) // mesh.size) * mesh.size
    rows, whole = _layouts(mesh)
    params = jax.tree.map(lambda x: x if x.sharding == whole else lay(np.asarray(x), whole), params)
    call, keys_of = _programs(model, rules, mesh)
    parts: list[dict[str, Any]] = []
    with rules.active(mesh):
        for done in range(0, count, batch):
            take = np.minimum(np.arange(done, done + batch), count - 1)
            some = {name: lay(value[take], rows) for name, value in given.items()}
            keys = keys_of(seed, first + done, batch)
            made = jax.device_get(call(params, some, wanted=wanted, keys=keys, plan=plan))
            kept = min(batch, count - done)
            parts.append({name: value[:kept] for name, value in made.items()})
            report(kept)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@functools.lru_cache(maxsize=8)
def _programs(model: Model, rules: Rules, mesh: Mesh) -> tuple[Any, Any]:
    """(jitted `generate`, jitted `sample_keys`), kept so that the next call of the same request compiles nothing.

    The rules are a part of the key: a program is traced under them.
    """
    del rules
    rows, whole = _layouts(mesh)
    call = jax.jit(model.generate, static_argnames=("wanted", "plan"), out_shardings=whole)
    return call, jax.jit(sample_keys, static_argnums=2, out_shardings=rows)


def _layouts(mesh: Mesh) -> tuple[NamedSharding, NamedSharding]:
    return NamedSharding(mesh, PartitionSpec(MESH_AXES[0])), NamedSharding(mesh, PartitionSpec())
