"""`--replay STEP`: recomputes one step from the last checkpoint before it, with the loss of each example."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unified_jax.errors import UserError
from unified_jax.models.stages import merged
from unified_jax.precision import same_numbers
from unified_jax.runs.checkpoints import Checkpoints
from unified_jax.runs.dtype import chosen
from unified_jax.runs.loop import Run, prepare
from unified_jax.runs.resume import branch_of, check_same_data, check_same_run, data_moved
from unified_jax.runs.saved import load_frozen, loading
from unified_jax.runs.start import ORIGIN, Start, first_state
from unified_jax.training.experiment import Experiment
from unified_jax.training.state import State
from unified_jax.training.step import example_losses
from unified_jax.typing import Params


@same_numbers()
def replay(experiment: Experiment, start: Start, step: int) -> str:
    """What step `step` (counted from 1, as metrics.jsonl does) saw: the loss of every example, the worst first.

    The steps between the checkpoint and it are repeated, bit for bit; the run directory does not change. Raises
    UserError if there is no such step, it cannot be reached, or the settings or the data are not those of the run.
    """
    if not 1 <= step <= experiment.steps:
        raise UserError(f"--replay {step}: the run has steps 1 .. {experiment.steps}.")
    if not start.run_dir.is_dir():
        raise UserError(f"--replay: the run directory {str(start.run_dir)!r} does not exist.")
    experiment = chosen(experiment, start.run_dir)
    check_same_run(experiment, start.run_dir)
    if longer := branch_of(experiment, start.run_dir):
        raise UserError(
            f"--replay {step}: the run has {longer[0]} steps, here it has {longer[1]}, with other learning rates."
        )
    run = prepare(experiment)
    check_same_data(run.pipeline.described(), start.run_dir, data_moved(experiment, start.run_dir))
    with experiment.rules.active(run.program.mesh):
        checkpoints = Checkpoints(start.run_dir, write=False)
        before = [s for s in checkpoints.steps() if s < step]
        how = loading(run.program.mesh, experiment.rules, start.places)
        if before:
            run.frozen = load_frozen(start.run_dir, experiment.trained, how)
            state = checkpoints.restore(run.program.abstract_state(), before[-1])
        else:
            state, base = _from_the_start(run, start, step)
            run.frozen = merged(base, load_frozen(start.run_dir, experiment.trained, how))
        for index in range(int(state.step), step - 1):
            state, _ = run.program.step(state, run.frozen, run.place(run.pipeline.batch(index)), run.key)
        return _report(run, state, step)


def _from_the_start(run: Run, start: Start, step: int) -> tuple[State, Params]:
    origin = _read_origin(start.run_dir / ORIGIN)
    if origin and start.init_from is None:
        raise UserError(
            f"--replay {step}: no checkpoint lies before it, and the run began from {origin.get('run')!r}; say where "
            "that is, with --init-from RUN."
        )
    state, frozen, found = first_state(run.experiment, run.program, run.key, start.init_from, start.trust, start.places)
    if found != origin:
        raise UserError(f"--replay {step}: the run did not begin from {str(start.init_from)!r} as it is now.")
    return state, frozen


def _read_origin(path: Path) -> dict[str, Any]:
    """The origin of the run; {} for none. Raises UserError for a damaged file.

    "branches", steps that were added later, are no origin.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}), so it is not known what the run began from.") from error
    return {name: value for name, value in found.items() if name != "branches"} if isinstance(found, dict) else {}


def _report(run: Run, state: object, step: int) -> str:
    batch = run.pipeline.batch(step - 1)
    rows = run.place(batch)
    look = jax.jit(example_losses, static_argnums=0, out_shardings=run.program.replicated)
    terms = look(run.experiment.trained, state, run.frozen, rows, run.key)
    losses = {name: np.asarray(value) for name, value in terms.items()}
    _, metrics = run.program.step(state, run.frozen, rows, run.key)
    total = sum(losses.values())
    order = np.argsort(np.where(np.isfinite(total), -total, -np.inf), kind="stable")
    finite = "finite" if bool(metrics["finite"]) else "not finite"
    lines = [
        f"step {step}: loss {float(metrics['loss']):.6g}, gradient norm {float(metrics['grad_norm']):.6g} ({finite})"
    ]
    several = len(batch.ids) // len(order)  # documents of a packed row
    for row in order:
        own = None if batch.rows is None else np.flatnonzero(batch.rows == row)
        slots = range(row * several, (row + 1) * several) if own is None else own.tolist()
        if not slots:
            continue  # a packed row without pictures
        named = f"{slots[0]:5d}" if own is None else " ".join(map(str, slots))
        ids = " ".join(f"{batch.ids[slot]:8d}" for slot in slots)
        values = "  ".join(f"{name} {value[row]:.6g}" for name, value in losses.items())
        lines.append(f"  slot {named}  id {ids}  {values}")
    return "\n".join(lines)
