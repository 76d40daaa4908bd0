"""Opening a run for sampling or evaluation: its experiment and one set of its parameters."""

from pathlib import Path

from unified_jax.errors import UserError
from unified_jax.runs.directory import load_experiment
from unified_jax.runs.saved import Which, load_params
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.experiment import Experiment
from unified_jax.typing import Params


def open_run(
    run_dir: Path, ema: str = "0", best: bool = False, trust: bool = False, step: int | None = None
) -> tuple[Experiment, Params, int]:
    """(experiment, its model's parameters on every device, step). `ema` is the index of an EMA, or 'none' for the
    trained parameters themselves. The checkpoint is the newest, the best, or that of `step`.

    Raises UserError: no run, no finished checkpoint, a damaged one, no such EMA.
    """
    experiment = load_experiment(run_dir, trust)
    if ema != "none" and not (ema.isascii() and ema.isdecimal() and int(ema) < len(experiment.ema)):
        raise UserError(f"--ema {ema}: this run keeps {len(experiment.ema)} EMA(s); expected 0 .. or 'none'.")
    if best and step is not None:
        raise UserError("--best and --step name two checkpoints; choose one.")
    mesh = make_mesh(MeshShape())
    params, found = load_params(run_dir, experiment, mesh, experiment.rules, Which(ema, best, step))
    return experiment, params, found
