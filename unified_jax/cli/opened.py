"""Opening a run for sampling or evaluation: its experiment and one set of its parameters."""

from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from unified_jax.errors import UserError
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.checkpoint import Checkpoints
from unified_jax.training.experiment import Experiment
from unified_jax.training.run_dir import load_experiment
from unified_jax.typing import Params


def open_run(run_dir: Path, ema: str = "0", best: bool = False, trust: bool = False) -> tuple[Experiment, Params, int]:
    """(experiment, parameters on every device, step). `ema` is the index of an average, or 'none' for the trained
    parameters themselves.

    Raises UserError: no run, no finished checkpoint, a damaged one, no such average.
    """
    experiment = load_experiment(run_dir, trust)
    if ema != "none" and not (ema.isdigit() and int(ema) < len(experiment.ema)):
        raise UserError(f"--ema {ema}: this run keeps {len(experiment.ema)} average(s); expected 0 .. or 'none'.")
    checkpoints = Checkpoints(run_dir, write=False)
    device = NamedSharding(make_mesh(MeshShape()), PartitionSpec())
    shapes = jax.eval_shape(experiment.model.init, jax.random.key(0))
    like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device), shapes)
    step = jax.ShapeDtypeStruct((), "int32", sharding=device)
    wanted: dict[str, Any] = {"step": step}
    wanted |= {"params": like} if ema == "none" else {"ema": tuple(like for _ in experiment.ema)}
    found = checkpoints.restore_best(wanted) if best else checkpoints.restore(wanted)
    params = found["params"] if ema == "none" else found["ema"][int(ema)]
    return experiment, params, int(found["step"])
