"""A stage whose run may not be there yet, so that a recipe of a chain of trainings can be planned and checked first."""

from pathlib import Path
from typing import Any

from unified_jax.models.stages import Serves, Stage
from unified_jax.runs.recipe import load_recipe
from unified_jax.runs.stages import stage


def planned_stage(name: str, run: str, recipe: str) -> Stage:
    """The stage of a run; until the run is there, with the network of the recipe that trains it.

    A training still refuses a source that is not there; `plan`, dry runs and flags work. UserError for an unknown
    recipe.
    """
    if (Path(run) / "config.json").is_file():
        return stage(name, run)
    model: Any = load_recipe(recipe).model
    return Stage(name, model.serves() if isinstance(model, Serves) else model, run)
