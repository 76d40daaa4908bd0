"""Recipes: a name under configs/ or a path to a Python file with `experiment() -> Experiment`."""

import runpy
from pathlib import Path
from typing import Any, TypeVar

from unified_jax.cli.meant import meant
from unified_jax.errors import UserError
from unified_jax.training.experiment import Experiment

Built = TypeVar("Built")

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def recipe_names() -> list[str]:
    """The recipes that ship."""
    return sorted(path.stem for path in CONFIGS.glob("*.py"))


def load_recipe(name: str) -> Experiment:
    """The experiment a recipe builds. Raises UserError for an unknown recipe or one that is no recipe."""
    return load_built(name, CONFIGS, ("recipe", "recipes"), "experiment", Experiment)


def load_built(name: str, folder: Path, words: tuple[str, str], function: str, kind: type[Built]) -> Built:
    """What `function()` of a file returns: of `folder`/`name`.py, or of a path to a .py file.

    `words` are what such a file is called, one and several. Raises UserError where it is not there or is none.
    """
    one, several = words
    path = Path(name) if name.endswith(".py") else folder / f"{name}.py"
    if not path.is_file():
        known = sorted(other.stem for other in folder.glob("*.py"))
        what = f"Unknown {one} {name!r}{meant(name, known)}"
        if name.endswith(".py"):
            what = f"The {one} file {name!r} {'is a folder' if path.is_dir() else 'does not exist'}."
        raise UserError(f"{what} {several.capitalize()}: {', '.join(known)}, or a path to a .py file.")
    try:
        build: Any = runpy.run_path(str(path)).get(function)
        built = build() if callable(build) else None
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"The {one} {str(path)!r} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(built, kind):
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        raise UserError(
            f"The {one} {str(path)!r} needs a function {function}() that returns {article} {kind.__name__}."
        )
    return built


def recipe_label(name: str) -> str:
    """The name of a recipe's default run directory."""
    return Path(name).stem
