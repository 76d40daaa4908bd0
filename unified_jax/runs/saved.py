"""The parameters of a run, read from its folder; with low-rank updates added to their kernels."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unified_jax.errors import UserError
from unified_jax.hosts import together
from unified_jax.models.stages import STAGES, merged
from unified_jax.models.tuned import Tuned, whole_model
from unified_jax.precision import seed_key
from unified_jax.runs.checkpoints import Checkpoints
from unified_jax.runs.directory import load_experiment
from unified_jax.runs.memory import check_params_fit
from unified_jax.runs.stages import NOWHERE, Loading, Places, load_stages
from unified_jax.sharding import Rules
from unified_jax.training.experiment import Experiment
from unified_jax.training.program import base_layout, laid_out
from unified_jax.training.state import State
from unified_jax.typing import Params

BASE = "base"
"""Folder of a tuned run that holds its frozen parameters, as a checkpoint of step 0."""


class Which(NamedTuple):
    """Which parameters of a run: of the newest checkpoint, the best, or that of `step`."""

    ema: str = "0"
    """Index of an EMA, or "none" for the trained parameters themselves."""
    best: bool = False
    step: int | None = None


NEWEST = Which()
"""The first EMA of the newest checkpoint."""


def load_base(run_dir: Path, like: Params) -> Params:
    """What a tuned run does not train; {} for no `like`. Raises UserError if it is missing or damaged."""
    return Checkpoints(run_dir / BASE, write=False).restore({"params": like})["params"] if like else {}


def loading(mesh: Mesh, rules: Rules, places: Places = NOWHERE, trust: bool = False) -> Loading:
    """How stages are loaded on a mesh."""

    def read_run(path: Path, ema: str) -> tuple[Params, int]:
        experiment = together(lambda: load_experiment(path, trust))
        assert experiment is not None
        return load_params(path, experiment, mesh, rules, Which(ema))

    return Loading(mesh, rules, read_run, places)


def load_frozen(run_dir: Path, trained: Any, how: Loading) -> Params:
    """All frozen parameters of a run, those of stages too. Raises UserError if some are missing or damaged."""
    frozen = load_base(run_dir, base_layout(trained, how.mesh, how.rules))
    stages = load_stages(run_dir, whole_model(trained), how)
    return frozen | ({STAGES: stages} if stages else {})


def keep_base(run_dir: Path, frozen: Params) -> None:
    """Writes the frozen parameters, so that the run opens without the one it came from.

    A base exists already if a start ended before its first checkpoint; this one may come from another run.
    """
    together(lambda: shutil.rmtree(run_dir / BASE, ignore_errors=True), by="first")
    state = State(jnp.zeros((), jnp.int32), frozen, (), {}, {}, {})
    with Checkpoints(run_dir / BASE, keep=1) as base:
        base.save_last(state, 0)


def load_trained(
    run_dir: Path, experiment: Experiment, mesh: Mesh, rules: Rules, which: Which = NEWEST
) -> tuple[Params, int]:
    """(what the run trains, step) of a checkpoint, sharded by the rules.

    Raises UserError for no finished checkpoint, or a damaged one.
    """
    model = experiment.trained
    like = laid_out(mesh, rules, model.axes(), jax.eval_shape(model.init, seed_key(0)))
    if not jax.tree.leaves(like):
        return _without_parameters(run_dir, which)
    checkpoints = Checkpoints(run_dir, write=False)
    whole = NamedSharding(mesh, PartitionSpec())
    wanted: dict[str, Any] = {"step": jax.ShapeDtypeStruct((), "int32", sharding=whole)}
    wanted |= {"params": like} if which.ema == "none" else {"ema": tuple(like for _ in experiment.ema)}
    aux = jax.eval_shape(model.init_aux, like)
    if jax.tree.leaves(aux):
        wanted["aux"] = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=whole), aux)
    check_params_fit(wanted, mesh.local_devices)
    if which.step is not None:
        found = checkpoints.restore_step(wanted, which.step)
    else:
        found = checkpoints.restore_best(wanted) if which.best else checkpoints.restore(wanted)
    params = found["params"] if which.ema == "none" else found["ema"][int(which.ema)]
    return merged(params, {}, found.get("aux")), int(found["step"])


def _without_parameters(run_dir: Path, which: Which) -> tuple[Params, int]:
    """({}, 0): a run that was linked. Raises UserError for a checkpoint, which it does not have."""
    if which.best or which.step is not None:
        raise UserError(
            f"{str(run_dir)!r} was linked, not trained: it has no checkpoints, so leave out --best and --step."
        )
    return {}, 0


def load_params(
    run_dir: Path, experiment: Experiment, mesh: Mesh, rules: Rules, which: Which = NEWEST, places: Places = NOWHERE
) -> tuple[Params, int]:
    """The same with the frozen parameters: all that the model's functions take."""
    model = experiment.trained
    params, found = load_trained(run_dir, experiment, mesh, rules, which)
    frozen = load_frozen(run_dir, model, loading(mesh, rules, places))
    if isinstance(model, Tuned):
        stages = {STAGES: frozen.pop(STAGES)} if STAGES in frozen else {}
        return jax.jit(model.compose)(merged(params, frozen)) | stages, found
    return merged(params, frozen), found
