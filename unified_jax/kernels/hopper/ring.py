"""The producer's side of a ring of stages in shared memory: copies run ahead of the consumers by as many blocks."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from unified_jax.kernels.hopper.compat import Ref


class Lane(NamedTuple):
    """Copies that become ready together: `ready` counts one arrival for each, `free` one for each consumer."""

    copies: tuple[tuple[Callable[[Array], Ref], Callable[[Array], Ref]], ...]
    """(where step s comes from, where its slot is)."""
    ready: Ref
    free: Ref


def slots(smem: Ref) -> Callable[[Array], Ref]:
    """The slots of a buffer with one leading axis of stages."""
    return lambda slot: smem.at[slot]


def turn(lane: Lane, step: Array, total: Array | int, stages: int) -> None:
    """One step of one lane: waits until the slot is free, then fills it."""
    slot = lax.rem(step, jnp.int32(stages))

    @pl.when(step >= stages)
    def _() -> None:
        plgpu.barrier_wait(lane.free.at[slot])

    @pl.when(step < total)
    def _() -> None:
        for source, target in lane.copies:
            plgpu.copy_gmem_to_smem(source(step), target(slot), lane.ready.at[slot])


def produce(lanes: tuple[Lane, ...], total: Array | int, stages: int) -> None:
    """Steps 0 .. total - 1 into the ring, each when its slot is free, by a warpgroup that releases its registers."""
    plgpu.set_max_registers(24, action="decrease")

    # The last `stages` turns only wait: every arrival is then seen, as the interpreter demands.
    @pl.loop(0, total + stages)
    def _(step: Array) -> None:
        for lane in lanes:
            turn(lane, step, total, stages)
