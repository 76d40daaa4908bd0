"""A run as a file of another layout, if that layout's own code computes the same function.

The file's metadata (safetensors, JSON):

    config      arguments of the class that it loads into
    diffusion   (dit) arguments of DiT's create_diffusion       scheduler   (diffusers_dit) those of DDPMScheduler
    transport   (sit, lightningdit) those of create_transport   process     our process, for an exact re-import
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import numpy as np

from unified_jax.config import from_plain, lacking, to_plain
from unified_jax.errors import UserError
from unified_jax.interop import diffusers_dit, dit, files, lightningdit, names
from unified_jax.interop.dit_sizes import Sizes
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.alignment import ALIGNMENT
from unified_jax.models.stages import own
from unified_jax.models.tuned import Tuning
from unified_jax.networks.dit import DiT
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import Interpolant
from unified_jax.processes.paths import Gvp, Linear, Vp
from unified_jax.runs.opened import open_run
from unified_jax.runs.saved import Which
from unified_jax.training.experiment import Experiment
from unified_jax.typing import Params

Foreign = Literal["dit", "sit", "diffusers_dit", "lightningdit"]
Whole = Literal[Foreign, "unified"]

SCHEDULES = {"linear": "linear", "squared_cosine": "squaredcos_cap_v2"}
"""Ours, theirs in both: linear from 1e-4 to 0.02 over 1,000 steps."""
TARGETS = {"eps": "epsilon", "x0": "sample"}
PATHS = {Linear(): "Linear", Gvp(): "GVP", Vp(): "VP"}
FLOWS = ("sit", "lightningdit")
NETWORKS: dict[Foreign, tuple[type, ...]] = dict.fromkeys(("dit", "sit", "diffusers_dit", "lightningdit"), (DiT,))
"""Classes that compute what a layout's own code computes; of a class derived from them nothing is known."""
PREDICTIONS = {"velocity": "velocity", "eps": "noise", "score": "score"}


class OfStreams(Protocol):
    """A model as a layout describes it; see `Diffusion`."""

    network: Any
    streams: tuple[Any, ...]
    reads: tuple[Any, ...]


def export_run(source: Path, target: Path, layout: Whole, ema: str, trust: bool) -> str:
    """Writes a run's parameters in a layout and returns a message. Raises UserError if the layout does not fit."""
    experiment, params, step = open_run(source, Which(ema), trust)
    params = jax.tree.map(np.asarray, jax.device_get(own(params)))
    if not params:
        raise UserError(f"{str(source)!r} was linked, not trained: it has no parameters of its own; export its links.")
    experiment = dataclasses.replace(experiment, tuning=Tuning())  # merged: no separate updates remain
    said = f"step {step} of {source} ({layout}) in {target}"
    if layout == "unified":
        write_unified(target, experiment, params, step)
        return said
    model: Any = experiment.model
    sizes = sizes_of(model, layout)
    (process,) = model.processes
    params = {name: value for name, value in params.items() if name != ALIGNMENT}  # of the training alone
    theirs, config = _written(model.network, params, sizes, layout)
    if layout != "diffusers_dit" and model.drop_all:
        config["class_dropout_prob"] = model.drop_all
    words = {"config": config, **_words(process, layout), "process": to_plain(process)}
    metadata = {"format": "pt", "step": str(step)} | {name: json.dumps(value) for name, value in words.items()}
    files.write(target, theirs, metadata)
    narrow = model.network.dtype != "float32"
    return said + (f"; the run computes in {model.network.dtype}, the file holds its float32 weights" if narrow else "")


def _written(network: DiT, params: Params, sizes: Sizes, layout: Foreign) -> tuple[dict[str, np.ndarray], Any]:
    """(the arrays of a layout, arguments of its class)."""
    if layout == "diffusers_dit":
        return diffusers_dit.write(params, sizes), diffusers_dit.constructor(sizes)
    if layout != "lightningdit":
        return dit.write(params, sizes), sizes.constructor()
    rows = int(np.shape(params["blocks"]["mlp"]["fc1"]["bias"])[1:][0] * (2 if network.mlp == "swiglu" else 1))
    options = (network.norm, network.mlp, network.qk_norm, network.rotary, network.shift)
    made = lightningdit.Layout(dataclasses.replace(sizes, hidden=rows), *options)
    return lightningdit.write(params, made), made.constructor()


def write_unified(path: Path, experiment: Experiment, params: Params, step: int) -> None:
    """Our layout: flat names, and the configuration as text."""
    metadata = {"format": "unified_jax", "experiment": json.dumps(to_plain(experiment)), "step": str(step)}
    files.write(path, names.flatten(params), metadata)


def sizes_of(model: Any, layout: Foreign) -> Sizes:
    """The sizes of a model that the layout's own code computes alike. Raises UserError listing why it would not."""
    if lacking(type(model), OfStreams) or type(model.network) not in NETWORKS[layout] or len(model.streams) != 1:
        raise UserError(f"The layout {layout} is of a class-conditional DiT; --layout unified takes any model.")
    network, streams = model.network, model.streams
    reasons = _network_reasons(network, layout)
    label = model.reads[0].source if len(model.reads) == 1 else None
    if not isinstance(label, Label):
        found = f"{len(model.reads)}" if label is None else type(label).__name__
        reasons.append(f"it has one label, found {found}")
    (stream,) = streams
    image = stream.modality
    sides, patch = stream.shape[:-1], stream.cut[0]
    if not isinstance(image, Image):
        reasons.append(f"it makes images, found {type(image).__name__}")
    elif sides[0] != sides[1]:
        reasons.append(f"its images are square, found {sides[0]} x {sides[1]}")
    elif sides[0] % patch:
        reasons.append(f"its images are whole patches, found side {sides[0]} in patches of {patch}")
    reasons += _flow_reasons(stream.process) if layout in FLOWS else _chain_reasons(stream.process)
    if reasons or not isinstance(label, Label) or not isinstance(image, Image):
        raise UserError(
            f"This run cannot be written as {layout}: {'; '.join(reasons)}. --layout unified takes any model."
        )
    return Sizes(
        network.depth, network.width, network.heads, int(network.width * network.mlp_ratio), patch,
        stream.shape[-1], stream.process.channels_per_output, label.classes + 1, sides[0] // patch,
    )  # fmt: skip


def described_process(said: dict[str, Any], layout: Foreign, sizes: Sizes, trust: bool) -> Any:
    """The process that an exported file names, or None. Raises UserError if it does not fit."""
    if "process" not in said:
        return None
    process = from_plain(said["process"], trust)
    reasons = _flow_reasons(process) if layout in FLOWS else _chain_reasons(process)
    if not reasons and process.channels_per_output != sizes.outputs:
        reasons = [f"it has {sizes.outputs} outputs a channel, found {process.channels_per_output}"]
    if reasons:
        raise UserError(f"The process that the file names is none of a model of layout {layout}: {'; '.join(reasons)}.")
    return process


def _network_reasons(network: DiT, layout: Foreign) -> list[str]:
    reasons = []
    if layout == "lightningdit":
        if network.conditioning != "adaln_zero" or (network.qk_norm and network.norm == "layer"):
            reasons.append("its blocks are adaln_zero, and qk_norm goes with RMSNorm")
    elif network.conditioning != "adaln_zero" or network.qk_norm:
        reasons.append("its blocks are adaln_zero without qk_norm")
    elif (network.norm, network.mlp, network.rotary, network.shift) != ("layer", "gelu", False, True):
        reasons.append("it has none of LightningDiT's options (norm, mlp, rotary, shift)")
    shift = network.frequency_shift
    if layout == "diffusers_dit" and shift != 1:
        reasons.append(
            f"its class has time frequencies 10000^(-i / 127), which is frequency_shift 1, found {shift:g}: it "
            "would compute another function (--layout dit has those of shift 0)"
        )
    elif layout != "diffusers_dit" and shift:
        reasons.append(f"it has no frequency_shift, found {shift:g}")
    return reasons


def _chain_reasons(process: Any) -> list[str]:
    """Why a process is not one that DiT's own code makes."""
    if not isinstance(process, DiscreteGaussian) or process.target not in TARGETS:
        return ["it is a discrete Gaussian chain with target eps or x0"]
    reasons = []
    if process.timesteps:
        reasons.append("its chain is whole, found timesteps that are left out")
    if process.table or process.zero_snr or process.shift != 1.0 or process.schedule not in SCHEDULES:
        reasons.append("its betas are linear or squared_cosine, without table, zero_snr and shift")
    elif process.schedule == "linear" and not _published_ends(process):
        reasons.append("its linear betas go from 1e-4 to 0.02, times 1000 / steps")
    return reasons


def _published_ends(process: DiscreteGaussian) -> bool:
    """Whether linear betas go from 1e-4 to 0.02 times 1000 / steps."""
    scale = process.steps / 1000 if not process.rescale_betas else 1.0
    return bool(np.allclose([process.beta_start * scale, process.beta_end * scale], [1e-4, 0.02], rtol=1e-9))


def _flow_reasons(process: Any) -> list[str]:
    """Why a process is not one that SiT's own code makes."""
    if not isinstance(process, Interpolant) or not process.reversed_time or process.time_scale != 1:
        return ["its network sees time from noise (0) to data (1): Interpolant(reversed_time, time_scale=1)"]
    reasons = []
    if process.target not in PREDICTIONS:
        reasons.append(f"it predicts velocity, eps or score, found {process.target}")
    if process.path not in PATHS:
        reasons.append(f"its path is Linear, Gvp or Vp as they come, found {process.path}")
    return reasons


def _words(process: Any, layout: Foreign) -> dict[str, Any]:
    """The process as arguments of the layout's own code."""
    if layout in FLOWS:
        return {
            "transport": {"path_type": PATHS[process.path], "prediction": PREDICTIONS[process.target]},
        }
    if layout == "dit":
        learned = process.variance == "learned_range"
        return {
            "diffusion": {
                "timestep_respacing": "", "noise_schedule": SCHEDULES[process.schedule],
                "predict_xstart": process.target == "x0", "sigma_small": process.variance == "fixed_small",
                "learn_sigma": learned, "diffusion_steps": process.steps,
            }
        }  # fmt: skip
    return {
        "scheduler": {
            "num_train_timesteps": process.steps, "beta_schedule": SCHEDULES[process.schedule],
            "beta_start": 1e-4 * 1000 / process.steps, "beta_end": 0.02 * 1000 / process.steps,
            "prediction_type": TARGETS[process.target], "variance_type": process.variance, "clip_sample": False,
        }
    }  # fmt: skip
