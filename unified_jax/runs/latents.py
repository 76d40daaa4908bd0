r"""The statistics of an autoencoder's latents over a set: scale and shift, of all channels together or of each.

    shift = mean of z,   scale = 1 / standard deviation of z,   z drawn of the moments: var z = var mean + E exp(logvar)

    unified-jax data latents RUN                       over the set that the autoencoder was trained on
    unified-jax data latents RUN --each channel        one number for each channel
    unified-jax data latents RECIPE --to FILE          of a recipe's latents over its set (a borrowed autoencoder), with
                                                       the recipe's own flags: --data.path photos --vae FOLDER

RUN/latents.json holds them with a checksum of the parameters, and `uj.stage(NAME, RUN)` takes them from there. A stage
whose scale or shift is not that of the file, or a file of other parameters, is refused by name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float

from unified_jax.config import lacking
from unified_jax.data.pipeline import Pipeline
from unified_jax.errors import UserError
from unified_jax.models.latents import LatentModel
from unified_jax.models.stages import Stage
from unified_jax.precision import same_numbers
from unified_jax.runs import directory as runs
from unified_jax.runs.flags import parse
from unified_jax.runs.latent_record import RECORD
from unified_jax.runs.recipe import load_recipe, near_recipe, parse_command, recipe_names
from unified_jax.runs.saved import loading
from unified_jax.runs.stages import read_stage, stage as stage_of
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.experiment import Experiment
from unified_jax.typing import Params


@dataclass(frozen=True)
class LatentsCommand:
    """Measure the latents of an autoencoder over a set; writes RUN/latents.json."""

    source: str
    """Run directory of an autoencoder, or a recipe whose model has latents."""
    to: str = ""
    """File of the statistics; default: RUN/latents.json, for a recipe none."""
    each: Literal["all", "channel"] = "all"
    """Whether scale and shift are one number, or one for each channel."""
    split: str = "train"
    """Split of the set."""
    count: int = 1024
    """Examples, the first in the order of the seed."""
    batch: int = 16
    """Examples at a time."""
    seed: int = 0
    """Of the order."""
    trust: bool = False
    """Import the custom code that the run keeps."""


@dataclass(frozen=True)
class OfRecipe:
    """Measure the latents of a recipe over its set. Every field of its experiment is a flag."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    to: str = ""
    """File of the statistics; default: none, they are printed."""
    each: Literal["all", "channel"] = "all"
    """Whether scale and shift are one number, or one for each channel."""
    count: int = 1024
    """Examples, the first in the order of the seed."""
    batch: int = 16
    """Examples at a time."""
    trust: bool = False
    """Import the custom code that the stage's run keeps."""

    def of(self, recipe: str) -> LatentsCommand:
        """The same as flags of a source."""
        e = self.experiment
        return LatentsCommand(recipe, self.to, self.each, e.split, self.count, self.batch, e.seed, self.trust)


def main(arguments: list[str]) -> None:
    """Runs the command."""
    named = bool(arguments) and not arguments[0].startswith("-")
    if named and not (Path(arguments[0]) / "config.json").is_file():
        more = "A run directory of an autoencoder serves too: unified-jax data latents RUN --help."
        if not arguments[0].endswith(".py") and arguments[0] not in (known := recipe_names()):
            raise UserError(f"There is no run directory or recipe {arguments[0]!r}{near_recipe(arguments[0], known)}")
        called = ("unified-jax data latents", "unified-jax data latents RECIPE or RUN", more)
        recipe, asked = parse_command(OfRecipe, called, arguments)
        command, experiment = asked.of(recipe), asked.experiment
    else:
        words = ["--source", *arguments] if named else arguments
        command, experiment = parse(LatentsCommand, "unified-jax data latents", words), None
    found = measure(command, experiment)
    print(f"{found['count']} examples of {found['split']}: latents of {found['shape']}")
    print(f"scale={tuple(found['scale'])}, shift={tuple(found['shift'])}")
    print(f"by channel: mean {found['channel']['mean']}, standard deviation {found['channel']['deviation']}")


@same_numbers()
def measure(command: LatentsCommand, recipe: Experiment | None = None) -> dict[str, Any]:
    """The statistics, written to their file, of a run, or of a recipe with its flags.

    Raises UserError for what has no latents, or none that vary.
    """
    if command.count < 2 or command.batch < 1:
        raise UserError(f"--count is at least 2 and --batch at least 1; found {command.count} and {command.batch}.")
    run_dir = Path(command.source)
    is_run = recipe is None and (run_dir / "config.json").is_file()
    experiment = runs.load_experiment(run_dir, command.trust) if is_run else recipe or load_recipe(command.source)
    stage, modality = of_run(run_dir, command.trust, experiment) if is_run else of_recipe(experiment)
    mesh = make_mesh(MeshShape(), jax.devices()[:1])
    params, checksum = read_stage(stage, experiment.model, loading(mesh, experiment.rules, trust=command.trust))
    found = {**statistics(stage.model, params, modality, experiment, command), "checksum": checksum, "ema": stage.ema}
    target = Path(command.to) if command.to else run_dir / RECORD if is_run else None
    if target is not None:
        runs.write_json(target, found)
    return found


def of_run(run_dir: Path, trust: bool, experiment: Experiment, statistics: bool = False) -> tuple[Stage, Any]:
    """(a run's autoencoder, with its measured scale and shift if asked; its modality).

    Raises UserError for a run that is no autoencoder.
    """
    stage = stage_of("autoencoder", run_dir, trust=trust, statistics=statistics)
    modality, *_ = experiment.model.modalities
    if words := lacking(type(stage.model), LatentModel):
        raise UserError(f"The run {str(run_dir)!r} is no autoencoder: {words}.")
    return stage, modality


def of_recipe(experiment: Experiment) -> tuple[Stage, Any]:
    """(the autoencoder of a model's first latents; their modality). Raises UserError for a model without."""
    streams = [one for one in getattr(experiment.model, "streams", ()) if one.latents is not None]
    if not streams:
        raise UserError(
            "This recipe's model has no latents: name the run of an autoencoder, or uj.Latents in a recipe."
        )
    return streams[0].latents.stage, streams[0].modality


def statistics(
    model: Any, params: Params, modality: Any, experiment: Experiment, command: LatentsCommand
) -> dict[str, Any]:
    """Mean and standard deviation of all numbers and of every channel, before any scale and shift."""
    pipeline = Pipeline(experiment.data, command.split, (modality,), command.batch, command.seed)

    @jax.jit
    def sums(params: Params, raw: Array, there: Float[Array, "b"]) -> tuple[Array, Array]:
        found = model.moments(params, modality.to_model(raw))
        c = found.mean.shape[-1]
        weight = there.reshape(-1, *(1,) * (found.mean.ndim - 1))
        first, second = weight * found.mean, weight * (jnp.square(found.mean) + jnp.square(found.std))
        return jnp.sum(first.reshape(-1, c), axis=0), jnp.sum(second.reshape(-1, c), axis=0)

    first, second, seen = 0.0, 0.0, 0
    for step in range(-(-command.count // command.batch)):
        there = np.arange(command.batch) < command.count - seen
        one, two = sums(params, pipeline.batch(step).arrays[modality.name], there.astype(np.float32))
        first, second = first + np.asarray(one, np.float64), second + np.asarray(two, np.float64)
        seen += int(there.sum())
    shape = model.latent_shape()
    numbers = seen * int(np.prod(shape[:-1]))
    mean, square = np.asarray(first) / numbers, np.asarray(second) / numbers
    variance = square - mean**2
    whole = square.mean() - mean.mean() ** 2
    if not (variance > 0).all() or not np.isfinite(variance).all():
        raise UserError("The latents do not vary in every channel, or are not finite: the autoencoder is not trained.")
    each = command.each == "channel"
    scale, shift = (variance**-0.5, mean) if each else (np.asarray([whole**-0.5]), np.asarray([mean.mean()]))
    return {
        **{"scale": _plain(scale), "shift": _plain(shift), "each": command.each, "shape": list(shape)},
        **{"count": seen, "split": command.split, "seed": command.seed},
        "all": {"mean": float(mean.mean()), "deviation": float(whole**0.5)},
        "channel": {"mean": _plain(mean), "deviation": _plain(variance**0.5)},
    }


def _plain(x: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in x]
