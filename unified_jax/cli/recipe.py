"""Recipes: a name under configs/ or a path to a Python file with `experiment() -> Experiment`."""

import runpy
from pathlib import Path
from typing import Any

from unified_jax.errors import UserError
from unified_jax.training.experiment import Experiment

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def recipe_names() -> list[str]:
    """The recipes that ship."""
    return sorted(path.stem for path in CONFIGS.glob("*.py"))


def load_recipe(name: str) -> Experiment:
    """The experiment a recipe builds. Raises UserError for an unknown recipe or one that is no recipe."""
    path = Path(name) if name.endswith(".py") else CONFIGS / f"{name}.py"
    if not path.is_file():
        what = f"The recipe file {name!r} does not exist" if name.endswith(".py") else f"Unknown recipe {name!r}"
        raise UserError(f"{what}; recipes: {', '.join(recipe_names())}, or a path to a .py file.")
    try:
        build: Any = runpy.run_path(str(path)).get("experiment")
    except Exception as error:
        raise UserError(f"The recipe {str(path)!r} cannot be read: {type(error).__name__}: {error}") from error
    built = build() if callable(build) else None
    if not isinstance(built, Experiment):
        raise UserError(f"The recipe {str(path)!r} needs a function experiment() that returns an Experiment.")
    return built


def recipe_label(name: str) -> str:
    """The name of a recipe's default run directory."""
    return Path(name).stem
