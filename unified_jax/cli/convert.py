"""`unified-jax convert --from FILE_OR_RUN --layout LAYOUT --to OUT`: weights in and out.

    --from FILE --to RUN_DIR             third-party weights as a run that `sample` draws from
    --from FOLDER --to RUN_DIR           a pipeline of diffusers (Stable Diffusion, PixArt, Flux) with its stages
    --from FILE --to NAME.safetensors    the same as one file in our layout, the model's configuration in its metadata
    --from RUN_DIR --to NAME.safetensors a run's parameters in a layout; of a tuned run, merged with its base
    --layout adapter                     only the trained part of a tuned run: to a file, and from it with --base RUN
    --layout peft, diffusers, kohya      the same as a LoRA file of these programs; of a file the layout is seen

LAYOUT names the array names of the third-party file, read or written. Models that a layout cannot represent, and the
reverse, are refused with a message; nothing is silently dropped or guessed.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from unified_jax.cli.entry import run_command
from unified_jax.config import from_plain
from unified_jax.data.tfds import Tfds
from unified_jax.errors import UserError
from unified_jax.interop import diffusers_dit, dit, files, names, parts
from unified_jax.interop.dit_sizes import Sizes, classes_of
from unified_jax.interop.pipelines import is_pipeline
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.base import Model
from unified_jax.models.diffusion import Diffusion
from unified_jax.networks.dit import DiT
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import Interpolant
from unified_jax.runs import released
from unified_jax.runs.adapters import write_run
from unified_jax.runs.code import beside_file
from unified_jax.runs.exports import Whole, described_process, export_run, write_unified
from unified_jax.runs.lora import ADAPTERS, AdapterLayout, export_tuned, import_tuned
from unified_jax.runs.pipelines import convert_pipeline
from unified_jax.samplers.choice import Ddpm, Dopri5
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.training.experiment import Experiment, Previews
from unified_jax.typing import Params

Layout = Literal[Whole, AdapterLayout]

SIT = Interpolant(time_scale=1.0, reversed_time=True)
"""SiT's straight path: the network's time is t in [0, 1] with data at 1, and its velocity points to the data."""


@dataclass(frozen=True)
class ConvertCommand:
    """Import and export weights: a file to a run directory, or a run directory to a file."""

    source: Annotated[str, tyro.conf.arg(name="from")]
    """A weights file, the index or folder of a file in several parts, a diffusers pipeline, or a run directory."""
    to: str
    """A new run directory, or a new file that ends in .safetensors."""
    layout: Layout = "unified"
    """Names in the file: DiT's, SiT's or LightningDiT's own, those of diffusers' DiTTransformer2DModel, or ours."""
    base: str = ""
    """The run that an adapter file was trained on."""
    heads: int | None = None
    """Attention heads of an imported model; default: the published number for its width, or the file's."""
    classes: int | None = None
    """Classes of an imported model; default: the file's, else all rows of its table but the null row."""
    autoencoder: str = ""
    """An autoencoder's folder or file: the run then draws pictures, not latents."""
    size: int | None = None
    """Side of the image or latent of a diffusers model, of a pipeline's image; default: the file's, else 32."""
    published_time: bool = False
    """Read a diffusers model with DiT's time frequencies, not those of diffusers."""
    ema: str = "0"
    """EMA of a run by index, or none for the trained parameters (also of a training checkpoint)."""
    trust: bool = False
    """Import custom code that the configuration names."""


def main(arguments: list[str]) -> None:
    """Runs the command."""
    if len(arguments) >= 2 and not any(word.startswith("-") for word in arguments[:2]):
        arguments = ["--from", arguments[0], "--to", *arguments[1:]]
    command = tyro.cli(ConvertCommand, prog="unified-jax convert", args=arguments)
    source, target = Path(command.source), Path(command.to)
    to_file = target.suffix == ".safetensors"
    if target.exists() and (to_file or not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--to {command.to!r} exists already; choose another name.")
    if is_pipeline(source):
        refuse_unused(command, exported=False, pipeline=True)
        print(convert_pipeline(source, target, command.size))
        return
    exported = source.is_dir() and (command.layout in ("unified", *ADAPTERS) or not parts.holds_weights(source))
    refuse_unused(command, exported)
    if exported:
        if not to_file:
            raise UserError(f"--to {command.to!r}: a run is exported to a file that ends in .safetensors.")
        if command.layout in ADAPTERS:
            print(export_tuned(source, target, command.layout, command.ema, command.trust))
        else:
            print(export_run(source, target, command.layout, command.ema, command.trust))
        return
    if command.layout in ADAPTERS:
        if to_file or not command.base:
            raise UserError("An adapter file becomes a run: --base RUN (what it was trained on) and --to RUN_DIR.")
        print(import_tuned(source, Path(command.base), target, command.trust))
        return
    experiment, params, said = read_weights(source, command)
    experiment = released.with_autoencoder(experiment, command.autoencoder) if command.autoencoder else experiment
    if to_file:
        write_unified(target, experiment, params, 0)
    else:
        write_run(target, experiment, params, {"source": source.name, "layout": command.layout})
    count = sum(value.size for value in names.flatten(params).values())
    print("; ".join((f"{count:,} parameters of {source.name} ({command.layout}) in {target}", *said)))


def refuse_unused(command: ConvertCommand, exported: bool, pipeline: bool = False) -> None:
    """Raises UserError for an option without effect."""
    foreign = not exported and not pipeline and command.layout in ("dit", "sit", "diffusers_dit", "lightningdit")
    diffusers = foreign and command.layout == "diffusers_dit"
    for option, given, used in (
        ("--layout", command.layout != "unified", not pipeline),
        ("--heads", command.heads is not None, foreign),
        ("--classes", command.classes is not None, foreign),
        ("--autoencoder", bool(command.autoencoder), foreign),
        ("--size", command.size is not None, diffusers or pipeline),
        ("--published-time", command.published_time, diffusers),
        ("--base", bool(command.base), not exported and not pipeline and command.layout in ADAPTERS),
        ("--ema", command.ema != "0", exported or foreign),
    ):
        if given and not used:
            what = f"the layout {command.layout} is {'written' if exported else 'read'}"
            what = "a pipeline of diffusers is read" if pipeline else what
            raise UserError(f"{option} has no meaning where {what}; leave it out.")


def read_weights(path: Path, command: ConvertCommand) -> tuple[Experiment, Params, tuple[str, ...]]:
    """The experiment and parameters of a weights file, and notes on them. Raises UserError."""
    layout = command.layout
    if layout == "unified" or layout in ADAPTERS:
        return *read_unified(path, command.trust), ()
    if command.ema not in ("0", "none"):
        raise UserError(f"--ema {command.ema}: a training checkpoint has one average; expected 0 or none.")
    tensors, said = files.read_weights(path, average=command.ema == "0")
    told = files.described(path)
    if layout == "lightningdit":
        asked = (command.heads, command.classes)
        return *released.lightningdit_of(f"{str(path)!r}", tensors, told, asked, command.trust), said
    diffusers = layout == "diffusers_dit"
    heads = _told(told, "num_attention_heads" if diffusers else "num_heads") if command.heads is None else command.heads
    if diffusers:
        said += diffusers_dit.check(told.get("config", {}))
        size = command.size if command.size is not None else _told(told, "sample_size") or 32
        params, sizes = diffusers_dit.read(tensors, size, heads)
    else:
        params, sizes = dit.read(tensors, heads)
    if layout == "sit":
        params, sizes = dit.without_variance(params, sizes)
    classes = _told(told, "num_embeds_ada_norm" if diffusers else "num_classes")
    classes = classes_of(sizes.rows, classes if command.classes is None else command.classes)
    if classes == sizes.rows:
        params = dit.with_null_row(params)
    process = described_process(told, layout, sizes, command.trust)
    if process is None:
        process = SIT if layout == "sit" else dit_process(sizes)
    shift = 1.0 if diffusers and not command.published_time else 0.0
    return experiment_of(sizes, process, classes, classes < sizes.rows, shift), params, said


def _told(said: dict[str, Any], name: str) -> int | None:
    """A positive whole number among the arguments that a file names."""
    value = said.get("config", {}).get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def read_unified(path: Path, trust: bool) -> tuple[Experiment, Params]:
    """What `write_unified` wrote. Raises UserError for a file without a configuration, or one that does not fit it."""
    tensors = files.read(path)
    text = files.read_metadata(path).get("experiment") if path.suffix == ".safetensors" else None
    if text is None:
        raise UserError(
            f"{str(path)!r} carries no configuration, so it is not in our layout; say with --layout which one it has."
        )
    try:
        experiment = from_plain(json.loads(text), beside_file(path, trust))
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
    """DiT's process (facebookresearch/DiT, create_diffusion): 1,000 linear steps, eps."""
    return DiscreteGaussian(variance="learned_range" if sizes.outputs == 2 else "fixed_large")


def experiment_of(
    sizes: Sizes,
    process: DiscreteGaussian | Interpolant,
    classes: int,
    guided: bool = True,
    frequency_shift: float = 0.0,
) -> Experiment:
    """A model of these sizes with the published sampler settings, without a data set."""
    side = sizes.side * sizes.patch
    sampler = Ddpm() if isinstance(process, DiscreteGaussian) else Dopri5()
    channels = 3 if frequency_shift == 0 and sizes.channels == 4 else 0  # DiT's and SiT's own code guides three of four
    steps = min(250, process.steps) if isinstance(process, DiscreteGaussian) else 250
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
        preview=Previews(
            plan=SamplingPlan(sampler, steps=steps, guidance=Guidance(4.0 if guided else 1.0, channels=channels))
        ),
    )


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
