"""LoRA files of other programs on a run, and a tuned run's low-rank updates as such a file.

In: the updates are added to the base's weights, by the names that its family is published under, and the result is a
run. Out: the updates of a run that was tuned by LoRA alone, of each published weight; where several of theirs are one
array of ours (queries, keys and values), or halves of one, each has factors of its own, by singular values, which are
exact at that rank.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.errors import UserError
from unified_jax.interop import files, lora, mmdit, table as tables, unets
from unified_jax.interop.folder import read_json
from unified_jax.interop.lora import LoraLayout, Update
from unified_jax.interop.names import flatten, shapes
from unified_jax.interop.parts import SAFETENSORS
from unified_jax.interop.table import Table
from unified_jax.models.stages import own
from unified_jax.models.tuned import Tuned, Tuning
from unified_jax.networks.flux import Flux
from unified_jax.networks.mmdit import MMDiT
from unified_jax.networks.unet.network import UNet
from unified_jax.runs.adapters import export_adapter, import_adapter, write_run
from unified_jax.runs.opened import open_run
from unified_jax.runs.saved import Which, load_trained
from unified_jax.runs.stages import kept_places
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.typing import Params

AdapterLayout = Literal["adapter", LoraLayout]
ADAPTERS: Final = ("adapter", "peft", "diffusers", "kohya")
ADAPTER_CONFIG = "adapter_config.json"
HEADER = "lora_adapter_metadata"
"""Where diffusers writes an adapter's options, in a safetensors header."""


class Family(NamedTuple):
    """How a network's weights are published."""

    part: str
    """Its name in a pipeline."""
    lines: Any
    """(parameters, patch) -> its table."""


FAMILIES: dict[type, Family] = {
    UNet: Family("unet", lambda params, side: unets.table(params, unets.Layout())),
    MMDiT: Family("transformer", lambda params, side: mmdit.table(params, side, True)),
    Flux: Family("transformer", lambda params, side: mmdit.table(params, side, False)),
}
"""Networks whose LoRA files are read and written."""


def family_of(model: Any, params: Params) -> tuple[str, Table]:
    """(the network's name in a pipeline, the table of its weights). Raises UserError for another network."""
    network = getattr(model, "network", None)
    if type(network) not in FAMILIES:
        known = ", ".join(kind.__name__ for kind in FAMILIES)
        raise UserError(f"LoRA files are of {known}, and this model's network is a {type(network).__name__}.")
    family = FAMILIES[type(network)]
    return family.part, family.lines(params, model.streams[0].cut[0])


def merged_params(
    model: Any, params: Params, what: str, tensors: dict[str, np.ndarray], said: dict[str, Any]
) -> Params:
    """A model's own parameters with the updates of a file; `said` are peft's options, as in adapter_config.json.

    Raises UserError for options that are not served, and for arrays that do not fit.
    """
    others = ("use_dora", "rank_pattern", "alpha_pattern")
    if said.get("bias", "none") != "none" or any(said.get(name) for name in others):
        raise UserError(f"{what}: DoRA, biases, and ranks or scales by module are not served in {ADAPTER_CONFIG}.")
    _, lines = family_of(model, params)
    weights = tables.write(params, lines)
    alpha = said.get("lora_alpha")
    updates = lora.read(what, tensors, shapes(weights), None if alpha is None else float(alpha))
    whole = lora.merged(weights, updates, root=bool(said.get("use_rslora")))
    return tables.read(what, whole, lines, params)


def import_lora(path: Path, base: Path, target: Path, trust: bool) -> str:
    """Makes a run from a run and a LoRA file of peft, diffusers or kohya, and returns a message. Raises UserError."""
    experiment, params, _ = open_run(base, trust=trust)
    host = jax.tree.map(np.asarray, jax.device_get(own(params)))
    said = said_by(path, family_of(experiment.model, host)[0])
    found = merged_params(experiment.model, host, repr(str(path)), files.read(path), said)
    places = kept_places(base, experiment.model)
    write_run(target, replace(experiment, tuning=Tuning()), found, {"source": path.name, "base": base.name}, places)
    return f"{path.name} added to {base} in {target}"


def said_by(path: Path, part: str) -> dict[str, Any]:
    """The options of a LoRA file: those that diffusers writes in its header, else the adapter_config.json beside it.

    `part` is the network's name in a pipeline, which stands before its options. Raises UserError for a damaged header.
    """
    header = files.read_metadata(path).get(HEADER) if path.suffix == SAFETENSORS and path.is_file() else None
    if header is None:
        return read_json(path.parent / ADAPTER_CONFIG, optional=True)
    try:
        options = dict(json.loads(header))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"The {HEADER} in the header of {str(path)!r} cannot be read: {error}.") from error
    named = {name.removeprefix(f"{part}."): value for name, value in options.items() if name.startswith(f"{part}.")}
    return named or {name: value for name, value in options.items() if "." not in name}


def is_ours(path: Path) -> bool:
    """Whether an adapter file is in our own layout, which carries a configuration."""
    return path.suffix == ".safetensors" and "experiment" in files.read_metadata(path)


def updates_of(model: Tuned, trained: Params) -> tuple[str, dict[str, Update]]:
    """(the network's name in a pipeline, the updates of its published weights) of what a tuned run has trained.

    Raises UserError for a run that also trained parameters in full.
    """
    if names := sorted(flatten(trained.get("own", {}))):
        raise UserError(f"A LoRA file holds low-rank updates alone, and this run trained {names[0]} in full.")
    expected = jax.eval_shape(model.model.init, jax.random.key(0))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), expected)
    change = jax.tree.map(np.asarray, own(model.compose({"base": zeros, "own": {}, "lora": trained["lora"]})))
    part, lines = family_of(model.model, change)
    deltas = tables.write(change, lines)
    changed = {name.rpartition("/")[0] for name in flatten(trained["lora"])}
    asked = [name for line in lines if line.ours in changed for name in _names(line, change)]
    return part, lora.factored(deltas, asked, lora.rank_of(deltas, asked))


def _names(line: Any, params: Params) -> list[str]:
    """Their names of one line, of every block."""
    blocks = len(flatten(params)[line.ours]) if any("{i}" in name for name in line.theirs) else 1
    return [name.format(i=i + line.first) for i in range(blocks) for name in line.theirs]


def export_updates(source: Path, target: Path, layout: LoraLayout, ema: str, trust: bool) -> str:
    """Writes a tuned run's updates as a LoRA file and returns a message. Raises UserError."""
    experiment, _, step = open_run(source, Which(ema), trust)
    model = experiment.trained
    if not isinstance(model, Tuned):
        raise UserError(f"{str(source)!r} trained its whole model; a LoRA file is of a run that was tuned by LoRA.")
    trained, _ = load_trained(source, experiment, make_mesh(MeshShape()), experiment.rules, Which(ema))
    part, updates = updates_of(model, jax.tree.map(np.asarray, jax.device_get(trained)))
    beside = target.parent / ADAPTER_CONFIG
    if layout == "peft" and beside.exists():
        raise UserError(
            f"{str(beside)!r} is of another adapter; peft has one a folder: name a file in a new one with --to."
        )
    files.write(target, lora.write(updates, layout, part), {"format": "pt"})
    if layout == "peft":
        beside.write_text(json.dumps(lora.adapter_config(updates), indent=1) + "\n")
    return f"{len(updates)} low-rank updates of {source}, step {step}, in {target} ({layout})"


def export_tuned(source: Path, target: Path, layout: Any, ema: str, trust: bool) -> str:
    """Writes what a tuned run trained, in our layout or in one of `LoraLayout`, and returns a message."""
    if layout == "adapter":
        return export_adapter(source, target, ema, trust)
    return export_updates(source, target, layout, ema, trust)


def import_tuned(path: Path, base: Path, target: Path, trust: bool) -> str:
    """Makes a run from an adapter file of ours or a LoRA file of another program, and returns a message."""
    return (import_adapter if is_ours(path) else import_lora)(path, base, target, trust)
