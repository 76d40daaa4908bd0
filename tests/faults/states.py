"""A state of a few arrays, and ways to break its checkpoints."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.training.state import State


def make_state(step: int) -> State:
    """Not worth training, but saved and restored like any other. The noise does not compress."""
    noise = jnp.asarray(np.random.default_rng(step).normal(size=30_000), jnp.float32)
    params = {"dense": {"kernel": noise, "bias": jnp.full(3, step, jnp.float32)}}
    return State(jnp.asarray(step, jnp.int32), params, ({"mean": noise + 1},), (), {}, {})


def like(state: State) -> State:
    """Its shapes on this device."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def same(a: State, b: State) -> bool:
    return all(bool((x == y).all()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_bit(folder: Path) -> None:
    path = largest_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


def truncate(folder: Path) -> None:
    path = largest_file(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete_a_file(folder: Path) -> None:
    largest_file(folder).unlink()


def write_half(folder: Path) -> None:
    """As a machine leaves it that lost power: the names are there, the contents are not."""
    for path in (p for p in (folder / "state").rglob("*") if p.is_file()):
        path.write_bytes(b"")
