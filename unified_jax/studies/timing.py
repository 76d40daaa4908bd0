"""Seconds of a train step, measured once a study and kept in OUT/measured.json: a resumed study decides as before."""

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
    """Measures what it was not told before."""

    def __init__(self, out: Path) -> None:
        self.path = out / "measured.json"

    def known(self, experiment: Experiment, seeds: int = 1) -> float | None:
        """Seconds measured before, of a step of this experiment whatever its length."""
        return (read_json(self.path) or {}).get(_key(experiment, seeds))

    def seconds(self, experiment: Experiment, seeds: int = 1) -> float:
        """Median seconds of a step of `seeds` seeds together, on the first batch."""
        found = self.known(experiment, seeds)
        if found is None:
            found = _measure(experiment, seeds)
            write_json(self.path, (read_json(self.path) or {}) | {_key(experiment, seeds): found})
        return found

    def guess(self, experiment: Experiment) -> float:
        """Seconds of a step: measured before, or its FLOPs at half the rate of a matrix product here."""
        program = assemble(experiment, make_mesh(experiment.mesh))
        return self.estimate(experiment, step_flops(program))

    def estimate(self, experiment: Experiment, flops: float) -> float:
        """The same where the FLOPs of a step are known."""
        return self.known(experiment) or flops / (0.5 * _product_rate())

    how = "FLOPs at half the rate of a matrix product on this device"
    """What `guess` says where nothing was measured."""

    def together_is_faster(self, experiment: Experiment, seeds: int) -> bool:
        """Whether so many seeds in one program take less time than one after the other."""
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
