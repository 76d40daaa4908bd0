"""Sampling in batches with one compiled call; sample i depends only on (seed, i) and its conditions."""

import functools
import math
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
from unified_jax.samplers.plan import SamplingPlan
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
    plan: SamplingPlan,
    batch: int,
    rules: Rules,
    report: Callable[[int], Any] = lambda done: None,
    first: int = 0,
) -> dict[str, np.ndarray]:
    """`count` samples per wanted modality from index `first` on, in model space; with none wanted, free running.

    `given` holds one row per sample; `report(n)` after n more are done.

    The parameters stay as they are sharded on their mesh; without one they are replicated on all devices. A batch is
    sharded over the batch axes and rounded up to a multiple of their devices; a short last batch is padded.
    """
    mesh, params = _placed(params)
    parts = math.prod(mesh.shape[axis] for axis in MESH_AXES[:2])
    batch = -(-min(batch, count) // parts) * parts
    rows, _ = _layouts(mesh)
    call, keys_of = _programs(model, rules, mesh)
    found: list[dict[str, Any]] = []
    with rules.active(mesh):
        for done in range(0, count, batch):
            take = np.minimum(np.arange(done, done + batch), count - 1)
            some = {name: lay(value[take], rows) for name, value in given.items()}
            keys = keys_of(seed, first + done, batch)
            made = jax.device_get(call(params, some, wanted=wanted, keys=keys, plan=plan))
            kept = min(batch, count - done)
            found.append({name: value[:kept] for name, value in made.items()})
            report(kept)
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


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
    return NamedSharding(mesh, PartitionSpec(MESH_AXES[:2])), NamedSharding(mesh, PartitionSpec())


def _placed(params: Params) -> tuple[Mesh, Params]:
    """(the mesh of the parameters, the parameters): theirs if they have one, else data parallelism on all devices."""
    cuts = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(params)]
    meshes = {cut.mesh for cut in cuts if isinstance(cut, NamedSharding)}
    if len(meshes) == 1 and all(isinstance(cut, NamedSharding) for cut in cuts):
        (mesh,) = meshes
        if isinstance(mesh, Mesh) and mesh.axis_names == MESH_AXES:
            return mesh, params
    mesh = make_mesh(MeshShape())
    whole = NamedSharding(mesh, PartitionSpec())
    return mesh, jax.tree.map(lambda x: lay(np.asarray(x), whole), params)
