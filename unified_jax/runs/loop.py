"""Training, top to bottom: mesh, data, shapes, shardings, init or restore, steps. See `train`."""

import contextlib
import functools
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import jax
import numpy as np

from unified_jax.config import check_kinds
from unified_jax.data.pipeline import HostBatch, Pipeline
from unified_jax.data.prefetch import Prefetcher
from unified_jax.errors import RunError, UserError
from unified_jax.hosts import lay_rows, local_rows, make_key, name, stop_wanted, together, writes
from unified_jax.models.latent_features import awake
from unified_jax.models.terms import trained_on
from unified_jax.precision import same_numbers
from unified_jax.runs import directory as runs
from unified_jax.runs.checkpoints import Checkpoints
from unified_jax.runs.code import check_own_classes
from unified_jax.runs.described import described, rescored
from unified_jax.runs.dtype import chosen
from unified_jax.runs.lock import RunLock
from unified_jax.runs.memory import check_state_fits
from unified_jax.runs.metrics import Clock, MetricsWriter, Pending, Progress, count_lines, last_value
from unified_jax.runs.monitor import Watch
from unified_jax.runs.patience import over
from unified_jax.runs.start import Start, begin, check_there, create
from unified_jax.runs.watchdog import Pulse
from unified_jax.sharding import make_mesh
from unified_jax.training.experiment import Experiment
from unified_jax.training.flops import count_flops
from unified_jax.training.gradients import term_gradients
from unified_jax.training.program import Program, assemble
from unified_jax.training.state import State
from unified_jax.typing import Params


@dataclass
class Run:
    """The live parts of a run; none of them changes what is computed."""

    experiment: Experiment
    program: Program
    pipeline: Pipeline
    gradients: Callable[..., Any]
    key: jax.Array
    held: np.ndarray
    """Rows of a global batch that this process's devices hold."""
    frozen: Params = field(default_factory=dict)
    """The frozen parameters; known once the run is opened."""

    def place(self, batch: HostBatch) -> dict[str, jax.Array]:
        """This process's rows as global arrays, sharded over the batch axes of the mesh."""
        cut, rows = self.program.batch_sharding, self.program.rows
        return {n: lay_rows(a, self.held, rows, cut) for n, a in batch.arrays.items()}


def prepare(experiment: Experiment) -> Run:
    """Everything up to (not including) the first compile: mesh, data, shapes, shardings. Raises UserError early."""
    check_kinds(experiment)
    check_own_classes(experiment)
    if experiment.evaluate:
        from unified_jax.runs.evaluate import check_evaluation

        check_evaluation(experiment)
    program = assemble(experiment, make_mesh(experiment.mesh))
    check_state_fits(program.shapes, program.shardings, program.abstract_frozen(), program.mesh.local_devices)
    held = local_rows(program.batch_sharding, program.rows)
    pipeline = Pipeline(
        experiment.data, experiment.split, trained_on(experiment.model), experiment.batch_size, experiment.seed, held,
        experiment.model.packer, vary=True,
    )  # fmt: skip
    gradients = functools.partial(term_gradients, program.experiment.trained, experiment.balance)
    key = make_key(experiment.seed, program.mesh)
    return Run(program.experiment, program, pipeline, jax.jit(gradients, out_shardings=program.replicated), key, held)


@same_numbers()
def train(experiment: Experiment, start: Start) -> dict[str, Any]:
    """Runs an experiment to its last step and returns its summary; a finished run is not changed.

    Raises UserError for an invalid request (before compilation) and RunError for a run that failed;
    both leave the last good checkpoint. SIGTERM and Ctrl-C save and return early with summary["finished"] = False.
    """
    run = together(lambda: prepare(chosen(experiment, start.run_dir, start.quiet)))
    assert run
    with experiment.rules.active(run.program.mesh):
        return _train(run, start)


def _train(run: Run, start: Start) -> dict[str, Any]:
    with opened(run, start) as (checkpoints, state), Interrupt(start.hours) as interrupt:
        if over(run.experiment, start.run_dir, int(state.step)):
            return ended(run, start, int(state.step))
        summary = _steps(run, state, checkpoints, start, interrupt)
    return close_run(run, start, summary)


@contextlib.contextmanager
def opened(run: Run, start: Start) -> Iterator[tuple[Checkpoints, State]]:
    """The run directory, made, locked and described: its checkpoints, and the state that the run resumes from."""
    folder, keep = start.run_dir, run.experiment.checkpoint
    together(lambda: create(start), by="first")
    with contextlib.ExitStack() as stack:
        together(lambda: stack.enter_context(RunLock(folder)), by="first")
        checkpoints = stack.enter_context(Checkpoints(folder, keep.keep, keep_every=keep.keep_every))
        together(lambda: check_there(run.experiment, start, checkpoints, run.pipeline.described), by="first")
        state, frozen = begin(run.experiment, run.program, run.key, start, checkpoints)
        run.frozen = awake(run.experiment.model, frozen)
        write = rescored if over(run.experiment, folder, int(state.step)) else described
        together(lambda: write(run.experiment, run.pipeline, run.program.mesh, folder, int(state.step)), by="first")
        yield checkpoints, state


def close_run(run: Run, start: Start, summary: dict[str, Any]) -> dict[str, Any]:
    """Writes summary.json and returns the summary."""
    if writes():
        runs.write_json(start.run_dir / "summary.json", summary | runs.provenance(run.experiment))
    return summary


def ended(run: Run, start: Start, steps: int) -> dict[str, Any]:
    """The summary of a run that finished after these steps; written now if the run was killed before that.

    The loss is then that of the last line of metrics.jsonl; values known only to the running process are missing.
    """
    path = start.run_dir / "summary.json"
    saved = together(lambda: runs.read_summary(path))
    if saved and saved.get("finished") and saved.get("step") == steps:
        return saved
    loss = last_value(start.run_dir / "metrics.jsonl", steps, "loss")
    skipped = count_lines(start.run_dir / "non_finite.jsonl", steps)
    found = {"step": steps, "finished": True, "loss": loss, "skipped": skipped, "parameters": run.program.parameters}
    return close_run(run, start, found)


class Interrupt:
    """SIGTERM and SIGINT set a flag that the loop reads between steps; a second one has its usual effect.

    With several processes JAX's coordination service handles SIGTERM instead and notifies all of them. After `hours`
    the first process sends itself SIGTERM; 0 never.
    """

    def __init__(self, hours: float = 0.0) -> None:
        self.received, self.since = False, 0.0
        self.deadline = time.monotonic() + 3600 * hours if hours else math.inf

    def __enter__(self) -> "Interrupt":
        self.before = {}
        if jax.process_count() > 1:
            return self
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self._receive)
        except ValueError:  # not in the main thread, whose owner decides
            pass
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def wanted(self, step: int) -> bool:
        """Whether to stop after `step` steps; the same answer in all processes."""
        if time.monotonic() > self.deadline and writes():
            self.deadline = math.inf
            os.kill(os.getpid(), signal.SIGTERM)
        return self.received or stop_wanted(step)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if not self.received:
            self.received, self.since = True, time.monotonic()
        elif time.monotonic() - self.since > 1:  # not the same one twice: schedulers signal parent and child
            signal.signal(number, self.before[number])
            signal.raise_signal(number)


def _steps(run: Run, state: State, checkpoints: Checkpoints, start: Start, interrupt: Interrupt) -> dict[str, Any]:
    experiment = run.experiment
    step = first = int(state.step)
    watch = together(lambda: make_watch(run, first, checkpoints, start))
    assert watch
    batches = run.pipeline.batches(first)
    try:
        with Pulse(float(start.stall), checkpoints.last_good) as watch.pulse:
            while step < experiment.steps and not watch.stopped and not interrupt.wanted(step):
                before = time.perf_counter()
                batch = next_batch(batches, experiment, step + 1, checkpoints)
                watch.clock.wait(time.perf_counter() - before)
                rows = run.place(batch)
                watch.flops = watch.flops or count_flops(run.program.fast, state, run.frozen, rows, run.key)
                watch.pace.step(time.perf_counter() - before)
                state, metrics = run.program.step(state, run.frozen, rows, run.key)
                step += 1
                watch.note(Pending(step, metrics, batch))
                if experiment.gradients_every and step % experiment.gradients_every == 0:
                    watch.report(step, run.gradients(state, run.frozen, rows, run.key))
                watch.look(state, step)
            watch.drain(0)
            checkpoints.save_last(state, step)
        return watch.summary(step, run.program.parameters)
    except FloatingPointError as error:  # what JAX_DEBUG_NANS and JAX_DEBUG_INFS raise
        raise RunError(f"Step {step + 1}: {error}. {checkpoints.last_good(wait=True)}") from error
    except Exception as error:
        if jax.process_count() == 1 or not peer_lost(error):
            raise
        raise RunError(_lost(step, error, checkpoints)) from error
    finally:
        batches.close()
        watch.close()


def make_watch(run: Run, first: int, checkpoints: Checkpoints, start: Start) -> Watch:
    """The monitor of a run from step `first` on."""
    writer = MetricsWriter(start.run_dir, first, mute=not writes(), project=start.wandb)
    writer.describe(run.experiment)
    progress = Progress(run.experiment.steps, first, not start.quiet and writes(), start.report, start.joint)
    watch = Watch(run.experiment, run.frozen, writer, progress, checkpoints, start.run_dir)
    watch.clock = Clock(last_value(writer.path, first, "time/seconds") or 0.0)
    watch.skipped = count_lines(writer.skipped_path, first)
    return watch


def peer_lost(error: Exception) -> bool:
    """Whether this is what JAX raises where another process has ended.

    A step raises JaxRuntimeError; reading an array that the step left behind may raise a plain error with its words.
    """
    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)


def _lost(step: int, error: Exception, checkpoints: Checkpoints) -> str:
    why = str(error).strip().split("\n")[0][:200]
    return (
        f"{name()} could not finish the steps up to {step}: {why} Most likely another process of the run has ended: "
        f"see its log. {checkpoints.last_good()} Start all processes again with the same command."
    )


def next_batch(
    batches: Prefetcher[HostBatch], experiment: Experiment, step: int, checkpoints: Checkpoints
) -> HostBatch:
    """The next batch. Raises RunError, with the last checkpoint, for any error in the background."""
    try:
        return next(batches)
    except Exception as error:  # sources raise any exception
        what = str(error) if isinstance(error, UserError | RunError) else f"{type(error).__name__}: {error}."
        raise RunError(
            f"Step {step} (split {experiment.split!r}) has no data: {what} {checkpoints.last_good(wait=True)}"
        ) from error
