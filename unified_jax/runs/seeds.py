"""Several seeds of one experiment as one program: the train step under vmap, everything else per run.

Each seed keeps its run directory, with the same files as a single run: any of them may be resumed one by one, or
together from a common step. Sums are added up in another order than for one seed, so numbers agree to float
tolerance, not bitwise.
"""

import contextlib
import dataclasses
import functools
import time
from collections import deque
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.data.pipeline import HostBatch
from unified_jax.errors import UserError
from unified_jax.precision import same_numbers
from unified_jax.runs.checkpoints import Checkpoints
from unified_jax.runs.dtype import chosen
from unified_jax.runs.loop import Interrupt, Run, close_run, ended, make_watch, next_batch, opened, prepare
from unified_jax.runs.metrics import LAG, Pending
from unified_jax.runs.monitor import Watch
from unified_jax.runs.start import Start
from unified_jax.training.experiment import Experiment
from unified_jax.training.flops import count_flops
from unified_jax.training.players import step_of
from unified_jax.training.state import State
from unified_jax.typing import Params


@dataclasses.dataclass
class Seat:
    """One seed of the group."""

    run: Run
    start: Start
    checkpoints: Checkpoints
    watch: Watch


@same_numbers()
def train_together(experiments: tuple[Experiment, ...], starts: tuple[Start, ...]) -> list[dict[str, Any]]:
    """Runs experiments that differ only in their seed to the last step, and returns their summaries.

    Raises UserError if they differ in more, are at different steps, or use several devices; RunError as soon as
    one of them fails: all keep their last checkpoints.
    """
    if len({dataclasses.replace(e, seed=0) for e in experiments}) != 1:
        raise UserError("Only experiments that differ in nothing but the seed are trained together.")
    if experiments[0].reduction != "fast":
        raise UserError("Seeds are trained together with --reduction fast; the strict one is for one run.")
    if experiments[0].checkpoint.best.patience:
        raise UserError("Seeds that may stop early (checkpoint.best.patience) are trained one by one.")
    runs = [prepare(chosen(e, start.run_dir, start.quiet)) for e, start in zip(experiments, starts, strict=True)]
    if jax.process_count() > 1 or runs[0].program.mesh.size > 1:
        raise UserError("Seeds are trained together on one device; give them one, or train them one by one.")
    with experiments[0].rules.active(runs[0].program.mesh), contextlib.ExitStack() as stack:
        entered = [stack.enter_context(opened(run, start)) for run, start in zip(runs, starts, strict=True)]
        states = [state for _, state in entered]
        first = {int(state.step) for state in states}
        if len(first) > 1:
            raise UserError(f"Seeds at different steps {sorted(first)} are trained one by one.")
        if not all(_equal(run.frozen, runs[0].frozen) for run in runs[1:]):
            raise UserError("Seeds that start from different runs, with other frozen parameters, train one by one.")
        if first == {experiments[0].steps}:
            return [ended(run, start, experiments[0].steps) for run, start in zip(runs, starts, strict=True)]
        seats = [
            Seat(run, start, checkpoints, make_watch(run, int(state.step), checkpoints, start))
            for run, start, (checkpoints, state) in zip(runs, starts, entered, strict=True)
        ]
        interrupt = stack.enter_context(Interrupt())
        return _steps(seats, states, interrupt)


def vmapped_step(run: Run) -> Any:
    """(states, frozen, batches, keys) -> (states, metrics), each with a leading axis of seeds; donates the states."""
    program, experiment = run.program, run.experiment
    step = functools.partial(step_of(experiment.trained), experiment.trained, program.optimizer, experiment.balance)
    return jax.jit(jax.vmap(step, in_axes=(0, None, 0, 0)), donate_argnums=0)


def stack_trees(trees: list[Any]) -> Any:
    """A new leading axis over equal trees."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _steps(seats: list[Seat], states: list[State], interrupt: Interrupt) -> list[dict[str, Any]]:
    experiment, program = seats[0].run.experiment, seats[0].run.program
    step, frozen = int(states[0].step), seats[0].run.frozen
    state, key = stack_trees(states), stack_trees([seat.run.key for seat in seats])
    advance, flops = vmapped_step(seats[0].run), 0.0
    streams = [seat.run.pipeline.batches(step) for seat in seats]
    started: deque[tuple[int, Any, list[HostBatch]]] = deque()
    try:
        while step < experiment.steps and not interrupt.wanted(step):
            before = time.perf_counter()
            batches = [
                next_batch(stream, seat.run.experiment, step + 1, seat.checkpoints)
                for stream, seat in zip(streams, seats, strict=True)
            ]
            for seat in seats:
                seat.watch.clock.wait(time.perf_counter() - before)
            rows = {name: np.stack([b.arrays[name] for b in batches]) for name in batches[0].arrays}
            if not flops:
                one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (state, rows, key))
                flops = count_flops(program.fast, one[0], frozen, *one[1:])
            state, metrics = advance(state, frozen, rows, key)
            step += 1
            started.append((step, metrics, batches))
            due = any(seats[0].watch.due(step))
            _read(seats, started, 0 if due else LAG, flops)
            if due:
                for i, seat in enumerate(seats):
                    seat.watch.look(_pick(state, i), step)
        _read(seats, started, 0, flops)
        for i, seat in enumerate(seats):
            seat.checkpoints.save_last(_pick(state, i), step)
        return [
            close_run(seat.run, seat.start, seat.watch.summary(step, program.parameters) | {"together": len(seats)})
            for seat in seats
        ]
    finally:
        for stream in streams:
            stream.close()
        for seat in seats:
            seat.watch.close()


def _read(seats: list[Seat], started: deque[tuple[int, Any, list[HostBatch]]], lag: int, flops: float) -> None:
    """Hands all but the last `lag` steps to the watches; one copy from the device for all seeds."""
    while len(started) > lag:
        step, metrics, batches = started.popleft()
        host = jax.device_get(metrics)
        for i, seat in enumerate(seats):
            seat.watch.flops = flops
            seat.watch.pending.append(Pending(step, jax.tree.map(lambda x, i=i: x[i], host), batches[i]))
            seat.watch.drain(0)


def _equal(one: Params, other: Params) -> bool:
    """Whether two trees of the same shapes hold the same numbers."""
    same = jax.tree.map(lambda a, b: bool((a == b).all()), one, other)
    return jax.tree.all(same)


def _pick(state: State, i: int) -> State:
    return jax.tree.map(lambda leaf: leaf[i], state)
