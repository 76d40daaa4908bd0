"""Seconds per train step, measured once per study and kept in OUT/measured.json for a resumed study."""

import dataclasses
import functools
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from unified_jax.config import config_hash
from unified_jax.planning.plan import step_flops
from unified_jax.runs.directory import read_json, write_json
from unified_jax.runs.loop import Run, prepare
from unified_jax.runs.seeds import stack_trees, vmapped_step
from unified_jax.sharding import make_mesh
from unified_jax.training.experiment import Experiment
from unified_jax.training.program import assemble
from unified_jax.training.step import init_state

ROUNDS = 5


class Stopwatch:
    """Measures experiments that have no stored time."""

    def __init__(self, out: Path) -> None:
        self.path = out / "measured.json"

    def known(self, experiment: Experiment, seeds: int = 1) -> float | None:
        """Stored seconds per step of this experiment, for any number of steps."""
        return (read_json(self.path) or {}).get(_key(experiment, seeds))

    def seconds(self, experiment: Experiment, seeds: int = 1) -> float:
        """Median seconds per step of `seeds` seeds together, on the first batch."""
        found = self.known(experiment, seeds)
        if found is None:
            found = _measure(experiment, seeds)
            write_json(self.path, (read_json(self.path) or {}) | {_key(experiment, seeds): found})
        return found

    def guess(self, experiment: Experiment) -> float:
        """Seconds per step: stored, or its FLOPs at half the rate of a matrix product here."""
        program = assemble(experiment, make_mesh(experiment.mesh))
        return self.estimate(experiment, step_flops(program))

    def estimate(self, experiment: Experiment, flops: float) -> float:
        """The same for known FLOPs per step."""
        return self.known(experiment) or flops / (0.5 * _product_rate())

    how = "FLOPs at half the rate of a matrix product on this device"
    """The estimate of `guess` without a measurement."""

    def together_is_faster(self, experiment: Experiment, seeds: int) -> bool:
        """Whether this many seeds train faster in one program than one by one."""
        return self.seconds(experiment, seeds) < seeds * self.seconds(experiment)


@functools.cache
def _product_rate(n: int = 1024) -> float:
    """FLOP/s of a float32 matrix product on the first device."""
    x, product, times = jnp.ones((n, n)), jax.jit(jnp.matmul), []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * n**3 / min(times)


def _key(experiment: Experiment, seeds: int) -> str:
    return f"{config_hash(dataclasses.replace(experiment, steps=1, seed=0))} x {seeds}"


def _measure(experiment: Experiment, seeds: int) -> float:
    run = prepare(experiment)
    program = run.program
    with experiment.rules.active(program.mesh):
        state, rows, key, step = _arguments(run, seeds)
        frozen = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), program.abstract_frozen())
        times = []
        for _ in range(ROUNDS + 2):  # the first two compile and warm up
            start = time.perf_counter()
            state, metrics = step(state, frozen, rows, key)
            jax.block_until_ready((state, metrics))
            times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def _arguments(run: Run, seeds: int) -> tuple[Any, Any, Any, Any]:
    def make() -> Any:
        return init_state(run.experiment.trained, run.program.optimizer, run.experiment.balance, run.key)

    state = jax.jit(make, out_shardings=run.program.shardings)()
    rows = run.place(run.pipeline.batch(0))
    if seeds == 1:
        return state, rows, run.key, run.program.step
    several = [stack_trees([one] * seeds) for one in (state, rows, run.key)]
    return several[0], several[1], several[2], vmapped_step(run)
