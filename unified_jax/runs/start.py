"""The start of a run: resumed, fresh, or from another run's parameters."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from unified_jax.config import config_hash
from unified_jax.errors import UserError
from unified_jax.hosts import shared, together, writes
from unified_jax.interop.names import flatten
from unified_jax.models.base import Model
from unified_jax.models.stages import BUFFERS, STAGES, START, merged
from unified_jax.models.tuned import Tuned
from unified_jax.precision import seed_key
from unified_jax.runs import directory as runs
from unified_jax.runs.checkpoints import Checkpoints
from unified_jax.runs.draws import check_same_draws
from unified_jax.runs.features import check_features
from unified_jax.runs.metrics import JointBar
from unified_jax.runs.notice import say
from unified_jax.runs.resume import branch_of, check_same_code, check_same_data, check_same_run, data_moved
from unified_jax.runs.saved import keep_base, load_frozen, load_params, loading
from unified_jax.runs.stages import NOWHERE, Places, begin_stages, check_sources, read_stage, recorded_checksum
from unified_jax.runs.weight_transfer import Graft, plan_graft
from unified_jax.training.experiment import Experiment
from unified_jax.training.program import Program, laid_out
from unified_jax.training.state import State
from unified_jax.training.step import init_state
from unified_jax.typing import Params

ORIGIN = "origin.json"
"""File of a run directory that started from another run."""


@dataclass(frozen=True)
class Start:
    """The directory of a run and how it starts."""

    run_dir: Path
    resume: Literal["auto", "never", "must"] = "auto"
    init_from: Path | None = None
    quiet: bool = False
    report: Callable[[int], None] | None = None
    """Called with the number of finished steps."""
    trust: bool = False
    """Import the custom code that `init_from` keeps."""
    code_changed: bool = False
    """Resume with custom classes that differ from those at the run's start."""
    wandb: str = ""
    """Project of Weights & Biases; empty: none."""
    hours: float = 0.0
    """Save and stop after this many hours, as at SIGTERM; 0: never."""
    places: Places = field(default_factory=dict)
    """Where stages are found instead of at their source, or in the run's folder."""
    stall: int = 0
    """Seconds without a finished step before the run prints the stacks of its threads and exits; 0: never."""
    joint: JointBar | None = None
    """The bar that it shares with other runs."""


def create(start: Start) -> None:
    """Makes the run directory. Raises UserError if it cannot be written, or must be resumed and is empty."""
    if start.resume == "must" and not (start.run_dir / "checkpoints").is_dir():
        raise UserError(f"--resume must: {str(start.run_dir)!r} holds no finished checkpoint.")
    runs.create(start.run_dir)


def check_there(
    experiment: Experiment, start: Start, checkpoints: Checkpoints, described: Callable[[], list[dict[str, Any]]]
) -> None:
    """Raises UserError if what is there is another run: in its settings, and if they are the same in its records.

    described  of the data now (`Pipeline.described`); asked where a run is there
    """
    if saved := checkpoints.steps():
        _check_start(experiment, start, saved)
        check_same_data(described(), start.run_dir, data_moved(experiment, start.run_dir))


def begin(
    experiment: Experiment, program: Program, key: jax.Array, start: Start, checkpoints: Checkpoints
) -> tuple[State, Params]:
    """(state, frozen parameters). Raises UserError for an invalid start, before any change."""
    saved = shared(checkpoints.steps())
    together(lambda: _check_start(experiment, start, saved))
    how = loading(program.mesh, experiment.rules, start.places, start.trust)
    if not saved:
        together(lambda: check_sources(experiment.model, start.places))
        check_features(experiment, lambda one: read_stage(one, experiment.model, how)[1])
    if saved:
        check_features(experiment, lambda one: recorded_checksum(start.run_dir, one))
        frozen = load_frozen(start.run_dir, experiment.trained, loading(program.mesh, experiment.rules, start.places))
        state = checkpoints.restore_newest(program.abstract_state(), fall_back=start.resume == "auto")
        checkpoints.drop_after(int(state.step))
        if writes() and (branch := branch_of(experiment, start.run_dir)):
            _branch(start.run_dir, int(state.step), branch)
        return state, frozen
    state, frozen, origin = first_state(experiment, program, key, start.init_from, start.trust, start.places)
    checkpoints.drop_after(0)
    if frozen:
        keep_base(start.run_dir, frozen)
    frozen |= _first_stages(experiment, program, state, frozen, start)
    if origin and writes():
        if not start.quiet:
            say(f"From {start.init_from}, step {origin['step']}: {origin['said']}")
        runs.write_json(start.run_dir / ORIGIN, origin)
    elif writes():
        (start.run_dir / ORIGIN).unlink(missing_ok=True)  # of a start that was interrupted before its first checkpoint
    return state, frozen


def first_state(
    experiment: Experiment,
    program: Program,
    key: jax.Array,
    source: Path | None,
    trust: bool = False,
    places: Places = NOWHERE,
) -> tuple[State, Params, dict[str, Any]]:
    """(state before the first step, frozen parameters, content of origin.json); nothing is written.

    Raises UserError if the run `source` does not fit the experiment.
    """
    whole, taken, origin = _whole(experiment, program, key, source, trust, places) if source else (None, {}, {})
    make = functools.partial(init_state, experiment.trained, program.optimizer, experiment.balance)
    state = jax.jit(make, out_shardings=program.shardings)(key)
    if whole is None:
        return state, {}, {}
    model, params, frozen = experiment.trained, whole, {}
    if isinstance(model, Tuned):
        params, frozen = {**state.params, "own": model.own(whole)}, model.frozen(whole)
    copies = tuple(jax.tree.map(jnp.copy, params) for _ in state.ema)
    aux, origin = _first_aux(experiment.model, program, state, whole, taken, origin)
    return dataclasses.replace(state, params=jax.tree.map(jnp.copy, params), ema=copies, aux=aux), frozen, origin


def _first_aux(
    model: Model, program: Program, state: State, whole: Params, taken: Any, origin: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """(the other run's aux where it has the same arrays, else that of the first parameters; origin.json's content)."""
    if not jax.tree.leaves(state.aux):
        return state.aux, origin
    shapes = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)  # noqa: E731
    same = shapes(taken) == shapes(state.aux)
    make = jax.jit((lambda aux: aux) if same else model.init_aux, out_shardings=program.shardings.aux)
    return jax.tree.map(jnp.copy, make(taken if same else whole)), origin | {"aux": "taken" if same else "fresh"}


def _first_stages(experiment: Experiment, program: Program, state: State, frozen: Params, start: Start) -> Params:
    """{"stages": their parameters} of a run that begins, kept in its folder; {} without stages."""
    model, trained = experiment.model, experiment.trained
    if not model.stages:
        return {}
    how = loading(program.mesh, experiment.rules, start.places, start.trust)
    whole = None
    if any(one.source == START for one in model.stages):
        # A low-rank update is zero before the first step, so this is what the run starts from.
        whole = trained.compose(merged(state.params, frozen)) if isinstance(trained, Tuned) else state.params
    return {STAGES: begin_stages(start.run_dir, model, whole, how)}


def _branch(run_dir: Path, step: int, steps: tuple[int, int]) -> None:
    """Records and reports that a run resumes with a longer schedule."""
    origin = runs.read_json(run_dir / ORIGIN) or {}
    branches = [*origin.get("branches", []), {"step": step, "steps": list(steps)}]
    runs.write_json(run_dir / ORIGIN, origin | {"branches": branches})
    say(
        f"More steps, {steps[0]} -> {steps[1]}: from step {step} on the learning rate follows the longer schedule, so "
        f"this is no longer the run of {steps[0]} steps ({ORIGIN} records it)."
    )


def _check_start(experiment: Experiment, start: Start, saved: list[int]) -> None:
    if start.resume == "must" and not saved:
        raise UserError(f"--resume must: {str(start.run_dir)!r} holds no finished checkpoint.")
    if saved and start.resume == "never":
        raise UserError(
            f"{str(start.run_dir)!r} already holds a run (step {saved[-1]}); choose another --run-dir, or resume it."
        )
    if saved:
        check_same_run(experiment, start.run_dir)
        check_same_code(experiment, start.run_dir, start.code_changed)
        check_same_draws(start.run_dir)
        if saved[-1] > experiment.steps:
            raise UserError(f"The run is at step {saved[-1]}, beyond --steps {experiment.steps}.")
        began = (runs.read_json(start.run_dir / ORIGIN) or {}).get("run")
        if start.init_from and began != start.init_from.name:
            raise UserError(
                f"{str(start.run_dir)!r} holds a run (step {saved[-1]}) that began "
                f"{f'from {began!r}' if began else 'afresh'}: --init-from {start.init_from} has no effect on it. "
                "Choose another --run-dir for a new run, or resume this one without it."
            )
    elif start.init_from is None:
        check_afresh(experiment)


def check_afresh(experiment: Experiment) -> None:
    """Raises UserError for a run that cannot begin from drawn parameters."""
    if not experiment.tuning.full:
        raise UserError(
            f"--tuning freezes a part of the model (it trains {experiment.tuning.train}); say which run it starts "
            "from, with --init-from RUN."
        )


def _whole(
    experiment: Experiment, program: Program, key: jax.Array, source: Path, trust: bool, places: Places
) -> tuple[Params, Any, dict[str, Any]]:
    """(all parameters, those of the other run where it has them; the other run's aux; content of origin.json)."""
    old = together(lambda: runs.load_experiment(source, trust))
    assert old
    graft = together(lambda: check_graft(experiment, old))
    assert graft
    theirs, step = load_params(source, old, program.mesh, experiment.rules, places=places)
    shapes = jax.eval_shape(experiment.model.init, key)
    layout = laid_out(program.mesh, experiment.rules, experiment.model.axes(), shapes)
    make = jax.jit(
        lambda old, key: graft.apply(old, experiment.model.init(key)),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, layout),
    )
    origin = {"run": source.name, "step": step, "config_hash": config_hash(old), "said": graft.tell()}
    return make(theirs, key), theirs.get(BUFFERS, {}), origin


def check_graft(experiment: Experiment, old: Experiment) -> Graft:
    """How an experiment starts from a run of another. Raises UserError if new parameters would be frozen."""
    graft = plan_graft(old.model, experiment.model, experiment.tuning)
    model: Any = experiment.trained
    if not isinstance(model, Tuned):
        return graft
    partly = [path for path, where in graft.taken.items() if not where.whole]
    still = flatten(model.frozen(jax.eval_shape(model.model.init, seed_key(0)))["base"])
    if idle := sorted(path for path in (*graft.fresh, *partly) if path in still):
        raise UserError(
            f"--tuning freezes {', '.join(idle)}, which the other run does not have (all of); name them in "
            "--tuning.train."
        )
    return graft
