"""Adapters: the trained part of a fine-tuned run as a file, and such a file applied to its base again.

The file holds `own/...` and `lora/...` (`models.tuned`). Its metadata has the configuration and a checksum of the
frozen parameters: it fits only that base.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.config import from_plain, to_plain
from unified_jax.errors import UserError
from unified_jax.interop import files, names
from unified_jax.models.tuned import Tuned
from unified_jax.runs import directory as runs
from unified_jax.runs.checkpoints import Checkpoints
from unified_jax.runs.code import beside_file, keep_code
from unified_jax.runs.opened import open_run
from unified_jax.runs.saved import Which, keep_base, load_base, load_trained, loading
from unified_jax.runs.stages import NOWHERE, Places, begin_stages, check_sources, kept_places
from unified_jax.runs.weight_transfer import plan_graft
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.experiment import Experiment
from unified_jax.training.program import base_layout
from unified_jax.training.state import State
from unified_jax.typing import Params


def export_adapter(source: Path, target: Path, ema: str, trust: bool) -> str:
    """Writes the trained part of a tuned run and returns a message. Raises UserError for a run that is not tuned."""
    experiment, _, step = open_run(source, Which(ema), trust)
    model, mesh = experiment.trained, make_mesh(MeshShape())
    if not isinstance(model, Tuned):
        raise UserError(f"{str(source)!r} trained its whole model; --layout unified takes it.")
    params, _ = load_trained(source, experiment, mesh, experiment.rules, Which(ema))
    frozen = load_base(source, base_layout(model, mesh, experiment.rules))
    tensors = names.flatten(jax.tree.map(np.asarray, jax.device_get(params)))
    metadata = {"format": "unified_jax", "experiment": json.dumps(to_plain(experiment)), "step": str(step)}
    files.write(target, tensors, metadata | {"base": checksum(frozen)})
    return f"{sum(x.size for x in tensors.values()):,} numbers of {source}, step {step}, in {target}"


def import_adapter(path: Path, base: Path, target: Path, trust: bool) -> str:
    """Makes a run from an adapter file and its base, and returns a message. Raises UserError if they do not fit."""
    tensors, metadata = files.read(path), files.read_metadata(path)
    old, params, _ = open_run(base, trust=trust)  # custom code comes from the base, or lies beside the file
    try:
        experiment: Any = from_plain(json.loads(metadata.get("experiment", "")), beside_file(path, trust))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{str(path)!r} carries no configuration, so it is no adapter ({error}).") from error
    if not isinstance(experiment, Experiment) or not isinstance(experiment.trained, Tuned):
        raise UserError(f"{str(path)!r} does not describe a tuned run, so it is no adapter.")
    model = experiment.trained
    expected = names.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    names.account(f"{str(path)!r}", names.shapes(tensors), names.shapes(expected))
    graft = plan_graft(old.model, experiment.model, experiment.tuning)
    frozen = model.frozen(graft.apply(params, experiment.model.init(jax.random.key(experiment.seed))))
    if checksum(frozen) != metadata.get("base"):
        raise UserError(f"{str(path)!r} was not trained on {str(base)!r}: the frozen parameters are others.")
    keep_base(target, jax.tree.map(jnp.asarray, frozen))
    source = {"source": path.name, "base": base.name}
    write_run(target, experiment, names.unflatten(tensors), source, kept_places(base, old.model))
    return f"{path.name} on {base} in {target}"


def checksum(frozen: Params) -> str:
    """SHA-256 of the arrays and their names."""
    digest = hashlib.sha256()
    for name, value in sorted(names.flatten(frozen).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(np.asarray(value, np.float32)).tobytes())
    return digest.hexdigest()


def write_run(
    run_dir: Path, made: Experiment, params: Params, source: dict[str, str], places: Places = NOWHERE
) -> None:
    """A run directory at step 0 with these parameters and EMAs, for sampling and as a start.

    Its stages are copied from their sources, or from `places`; one that holds the start holds these parameters.
    config.json is written last: an interrupted conversion is not a run. Raises UserError if it cannot be written.
    """
    runs.create(run_dir)
    if made.model.stages:
        check_sources(made.model, places)
        begin_stages(run_dir, made.model, params, loading(make_mesh(MeshShape()), made.rules, places))
    arrays = jax.tree.map(jnp.asarray, params)
    averages = tuple(arrays for _ in made.ema)
    state = State(step=jnp.zeros((), jnp.int32), params=arrays, ema=averages, opt_state={}, aux={}, balance={})
    with Checkpoints(run_dir) as checkpoints:
        checkpoints.save(state, 0)
    runs.write_json(run_dir / "conversion.json", source | runs.provenance(made))
    keep_code(run_dir, made, 0)
    runs.save_experiment(run_dir, made)
