"""Opening a run for sampling or evaluation: its experiment and one set of its parameters."""

from pathlib import Path

import jax
from jax.sharding import Mesh

from unified_jax.errors import UserError
from unified_jax.runs.directory import load_experiment
from unified_jax.runs.saved import NEWEST, Which, load_params
from unified_jax.runs.stages import NOWHERE, Places
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.experiment import Experiment
from unified_jax.typing import Params


def open_run(
    run_dir: Path, which: Which = NEWEST, trust: bool = False, places: Places = NOWHERE, fsdp: int = 0
) -> tuple[Experiment, Params, int]:
    """(experiment, all that its model's functions take, sharded by the run's rules, step).

    which    EMA and checkpoint
    places   where stages are that are not in the run's folder
    fsdp     devices over which the parameters are sharded; 0: as in training, if that mesh fits the devices

    Raises UserError: no run, no finished checkpoint, a damaged one, no such EMA.
    """
    experiment, ema = load_experiment(run_dir, trust), which.ema
    if ema != "none" and not (ema.isascii() and ema.isdecimal() and int(ema) < len(experiment.ema)):
        raise UserError(f"--ema {ema}: this run keeps {len(experiment.ema)} EMA(s); expected 0 .. or 'none'.")
    if which.best and which.step is not None:
        raise UserError("--best and --step name two checkpoints; choose one.")
    mesh = mesh_for(experiment, fsdp)
    params, found = load_params(run_dir, experiment, mesh, experiment.rules, which, places)
    return experiment, params, found


def mesh_for(experiment: Experiment, fsdp: int = 0) -> Mesh:
    """The mesh of a run that is only read: that of its training where the devices allow it, else data parallelism."""
    if fsdp < 0:
        raise UserError(f"--fsdp must not be negative, found {fsdp}.")
    if fsdp:
        return make_mesh(MeshShape(fsdp=fsdp))
    try:
        experiment.mesh.resolve(jax.device_count())
    except UserError:
        return make_mesh(MeshShape())
    return make_mesh(experiment.mesh)
