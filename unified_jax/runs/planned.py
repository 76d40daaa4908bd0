"""A stage whose run may not be there yet, so that a recipe of a chain of trainings can be planned and checked first."""

from pathlib import Path
from typing import Any

from unified_jax.errors import UserError
from unified_jax.models.stages import Serves, Stage
from unified_jax.runs.latent_record import RECORD
from unified_jax.runs.recipe import open_recipe
from unified_jax.runs.stages import stage


def planned_stage(name: str, run: str, recipe: str, statistics: bool = False, flags: tuple[str, ...] = ()) -> Stage:
    """The stage of a run; until the run is there, with the network of the recipe that trains it.

    statistics   whether the latents are those of an autoencoder that leaves them as they come: the run must say their
                 scale and shift (`unified-jax data latents RUN`)
    flags        of the recipe's own parameters, as on the command line: ("--size", "64")

    A training still refuses a source that is not there; `plan`, dry runs and flags work. UserError for an unknown
    recipe, or a run whose statistics are missing.
    """
    if (Path(run) / "config.json").is_file():
        if statistics and not (Path(run) / RECORD).is_file():
            raise UserError(
                f"The autoencoder {run!r} was trained and its latents not measured: unified-jax data latents {run} "
                "--each channel"
            )
        return stage(name, run)
    model: Any = open_recipe(recipe, list(flags))[0].model
    return Stage(name, model.serves() if isinstance(model, Serves) else model, run)
