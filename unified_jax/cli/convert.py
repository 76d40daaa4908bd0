"""`python -m unified_jax.cli.convert --from FILE_OR_RUN --layout LAYOUT --to OUT`: weights in and out.

    --from FILE --to RUN_DIR             other people's weights as a run that sample.py draws from
    --from FILE --to NAME.safetensors    the same as one file in our layout, the model's configuration in its metadata
    --from RUN_DIR --to NAME.safetensors a run's parameters in a layout; of a tuned run, merged with what they tune
    --layout adapter                     of a tuned run only what was trained: to a file, and from it with --base RUN

LAYOUT says how the file that is not ours, read or written, names its arrays. What a layout cannot say or a model cannot
represent is refused in a sentence; nothing is dropped or guessed in silence.
"""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from unified_jax.cli.adapters import export_adapter, import_adapter, write_run
from unified_jax.cli.entry import run_command
from unified_jax.cli.opened import open_run
from unified_jax.config import from_plain, to_plain
from unified_jax.data.tfds import Tfds
from unified_jax.errors import UserError
from unified_jax.interop import diffusers_dit, dit, files, names
from unified_jax.interop.dit_sizes import Sizes, classes_of
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.base import Model
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.plan import Plan
from unified_jax.models.tuned import Tuning
from unified_jax.networks.dit import DiT
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import Interpolant
from unified_jax.samplers.choice import Ddpm, Dopri5
from unified_jax.samplers.guidance import Guidance
from unified_jax.training.experiment import Experiment, Previews
from unified_jax.typing import Params

Whole = Literal["dit", "sit", "diffusers_dit", "unified"]
Layout = Literal[Whole, "adapter"]

SIT = Interpolant(time_scale=1.0, reversed_time=True)
"""SiT's straight path: the network sees t in [0, 1] with data at 1, and its velocity points to the data."""


@dataclass(frozen=True)
class ConvertCommand:
    """Weights in and out: a file to a run directory, or a run directory to a file."""

    source: Annotated[str, tyro.conf.arg(name="from")]
    """A weights file, or a run directory."""
    to: str
    """A new run directory, or a new file that ends in .safetensors."""
    layout: Layout = "unified"
    """Names in the file: facebookresearch/DiT's, willisma/SiT's, those of diffusers' DiTTransformer2DModel, or ours."""
    base: str = ""
    """Of an adapter file: the run that it was trained on."""
    heads: int | None = None
    """Attention heads of a model to read; known for the published widths."""
    classes: int | None = None
    """Classes of a model to read; default all rows of its table but the last, the null row (of 1,000 rows: all)."""
    size: int = 32
    """Side of the image or latent of a diffusers model to read, which its file does not tell."""
    published_time: bool = False
    """Read a diffusers model with the time frequencies DiT was trained with, not those that diffusers computes."""
    ema: str = "0"
    """Of a run the index of an average, or none for the trained parameters; of a training checkpoint too: none."""
    trust: bool = False
    """Allow classes of your own modules in a configuration."""


def main(arguments: list[str]) -> None:
    """The command."""
    command = tyro.cli(ConvertCommand, prog="convert", args=arguments)
    source, target = Path(command.source), Path(command.to)
    to_file = target.suffix == ".safetensors"
    if target.exists() and (to_file or not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--to {command.to!r} is there already; choose another name.")
    if source.is_dir():
        if not to_file:
            raise UserError(f"--to {command.to!r}: a run is exported to a file that ends in .safetensors.")
        if command.layout == "adapter":
            print(export_adapter(source, target, command.ema, command.trust))
        else:
            print(export_run(source, target, command.layout, command.ema, command.trust))
        return
    if command.layout == "adapter":
        if to_file or not command.base:
            raise UserError("An adapter file becomes a run: --base RUN (what it was trained on) and --to RUN_DIR.")
        print(import_adapter(source, Path(command.base), target, command.trust))
        return
    experiment, params = read_weights(source, command)
    if to_file:
        write_unified(target, experiment, params, 0)
    else:
        write_run(target, experiment, params, {"source": source.name, "layout": command.layout})
    count = sum(value.size for value in names.flatten(params).values())
    print(f"{count:,} parameters of {source.name} ({command.layout}) in {target}")


def read_weights(path: Path, command: ConvertCommand) -> tuple[Experiment, Params]:
    """The experiment and parameters of a weights file. Raises UserError, as everything it calls."""
    if command.layout == "unified":
        return read_unified(path, command.trust)
    if command.ema not in ("0", "none"):
        raise UserError(f"--ema {command.ema}: a training checkpoint has one average; expected 0 or none.")
    tensors = files.read(path, average=command.ema == "0")
    if command.layout == "diffusers_dit":
        params, sizes = diffusers_dit.read(tensors, command.size, command.heads)
    else:
        params, sizes = dit.read(tensors, command.heads)
    if command.layout == "sit":
        params, sizes = dit.without_variance(params, sizes)
    classes = classes_of(sizes.rows, command.classes)
    if classes == sizes.rows:
        params = dit.with_null_row(params)
    process = SIT if command.layout == "sit" else dit_process(sizes)
    shift = 1.0 if command.layout == "diffusers_dit" and not command.published_time else 0.0
    return experiment_of(sizes, process, classes, classes < sizes.rows, shift), params


def export_run(source: Path, target: Path, layout: Whole, ema: str, trust: bool) -> str:
    """Writes a run's parameters in a layout and returns what to say. Raises UserError where the layout has no words."""
    experiment, params, step = open_run(source, ema, trust=trust)
    params = jax.tree.map(np.asarray, jax.device_get(params))
    experiment = dataclasses.replace(experiment, tuning=Tuning())  # merged: nothing of it is apart any more
    if layout == "unified":
        write_unified(target, experiment, params, step)
    else:
        sizes = sizes_of(experiment.model, layout)
        diffusers = layout == "diffusers_dit"
        theirs = diffusers_dit.write(params, sizes) if diffusers else dit.write(params, sizes)
        config = diffusers_dit.constructor(sizes) if diffusers else sizes.constructor()
        files.write(target, theirs, {"format": "pt", "config": json.dumps(config), "step": str(step)})
    return f"step {step} of {source} ({layout}) in {target}"


def write_unified(path: Path, experiment: Experiment, params: Params, step: int) -> None:
    """Our layout: flat names, and the whole configuration as text."""
    metadata = {"format": "unified_jax", "experiment": json.dumps(to_plain(experiment)), "step": str(step)}
    files.write(path, names.flatten(params), metadata)


def read_unified(path: Path, trust: bool) -> tuple[Experiment, Params]:
    """What `write_unified` wrote. Raises UserError for a file without a configuration, or one that does not fit it."""
    tensors = files.read(path)
    text = files.read_metadata(path).get("experiment") if path.suffix == ".safetensors" else None
    if text is None:
        raise UserError(
            f"{str(path)!r} carries no configuration, so it is not in our layout; say with --layout which one it has."
        )
    try:
        experiment = from_plain(json.loads(text), trust)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"The configuration in {str(path)!r} is not valid JSON ({error}).") from error
    if not isinstance(experiment, Experiment) or not isinstance(experiment.model, Model):
        raise UserError(f"The configuration in {str(path)!r} does not describe an experiment.")
    try:
        expected = names.flatten(jax.eval_shape(experiment.model.init, jax.random.key(0)))
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"The configuration in {str(path)!r} describes no model that can be built: {error}") from error
    names.account(f"{str(path)!r}", names.shapes(tensors), names.shapes(expected))
    return experiment, names.unflatten(tensors)


def dit_process(sizes: Sizes) -> DiscreteGaussian:
    """DiT's chain (facebookresearch/DiT, create_diffusion): 1,000 linear steps, eps."""
    return DiscreteGaussian(variance="learned_range" if sizes.outputs == 2 else "fixed_large")


def experiment_of(
    sizes: Sizes,
    process: DiscreteGaussian | Interpolant,
    classes: int,
    guided: bool = True,
    frequency_shift: float = 0.0,
) -> Experiment:
    """A model of these sizes with the published way of sampling. It names no data set: weights do not tell one."""
    side = sizes.side * sizes.patch
    sampler = Ddpm() if isinstance(process, DiscreteGaussian) else Dopri5()
    channels = 3 if frequency_shift == 0 and sizes.channels == 4 else 0  # DiT's and SiT's own code guides three of four
    return Experiment(
        model=Diffusion(
            network=DiT(
                depth=sizes.depth,
                width=sizes.width,
                heads=sizes.heads,
                mlp_ratio=sizes.ratio(),
                frequency_shift=frequency_shift,
            ),
            process=process,
            modality=Image(side, side, sizes.channels, sizes.patch),
            conditions=(Label("label", classes),),
            drop_all=0.1 if guided else 0.0,
            flip=True,
        ),
        data=Tfds("unknown"),
        preview=Previews(plan=Plan(sampler, steps=250, guidance=Guidance(4.0 if guided else 1.0, channels=channels))),
    )


def sizes_of(model: Any, layout: Literal["dit", "sit", "diffusers_dit"]) -> Sizes:
    """The sizes of a model that the layout's own code computes alike. Raises UserError listing why it would not."""
    reasons = []
    network = model.network if isinstance(model, Diffusion) else None
    if not isinstance(network, DiT):
        raise UserError(f"The layout {layout} is of a class-conditional DiT; --layout unified takes any model.")
    if network.conditioning != "adaln_zero" or network.qk_norm:
        reasons.append("its blocks are adaln_zero without qk_norm")
    if network.frequency_shift and layout != "diffusers_dit":
        reasons.append(f"it has no frequency_shift, found {network.frequency_shift}")
    if len(model.conditions) != 1:
        reasons.append(f"it has one label, found {len(model.conditions)}")
    if model.modality.height != model.modality.width:
        reasons.append(f"its images are square, found {model.modality.height} x {model.modality.width}")
    process = model.process
    if layout == "sit":
        if not isinstance(process, Interpolant) or not process.reversed_time or process.time_scale != 1:
            reasons.append("its network sees time from noise (0) to data (1): Interpolant(reversed_time, time_scale=1)")
        elif process.target not in ("velocity", "eps", "score"):
            reasons.append(f"it predicts velocity, eps or score, found {process.target}")
    elif not isinstance(process, DiscreteGaussian) or process.target not in ("eps", "x0"):
        reasons.append("it is a discrete Gaussian chain with target eps or x0")
    if reasons:
        raise UserError(
            f"This run cannot be written as {layout}: {'; '.join(reasons)}. --layout unified takes any model."
        )
    image = model.modality
    return Sizes(
        network.depth, network.width, network.heads, int(network.width * network.mlp_ratio), image.patch,
        image.channels, process.channels_per_output, model.conditions[0].classes + 1, image.height // image.patch,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
