"""What a command of data sets is given: a path, or a recipe with its flags."""

import os
from dataclasses import dataclass
from typing import Any, TypeVar

from unified_jax.data.files import Files
from unified_jax.errors import UserError
from unified_jax.runs.flags import parse
from unified_jax.runs.recipe import near_recipe, parse_command, recipe_names

Command = TypeVar("Command")


@dataclass(frozen=True)
class PathFlags:
    """How the files at a path are read."""

    rename: tuple[tuple[str, str], ...] = ()
    """Pairs (name, column) for columns under other names: --rename caption text."""
    labels: tuple[str, ...] = ("label",)
    """Columns that are classes."""
    test: float = 0.05
    """Share of the records that is the split test, where the set has none."""

    def files(self, path: str) -> Files:
        """The data set there. Raises UserError for a bad share."""
        try:
            return Files(path, self.rename, self.test, self.labels)
        except ValueError as error:
            raise UserError(str(error)) from None


def is_path(word: str) -> bool:
    """Whether a word names files: it exists, or is no recipe and looks like a path. `./images` is never a recipe."""
    if word in recipe_names() or word.endswith(".py"):
        return word not in recipe_names() and not word.endswith(".py")
    return os.path.exists(os.path.expanduser(word)) or os.sep in word or "." in word


def read_command(
    action: str, arguments: list[str], of_path: type[Command], of_recipe: type[Any]
) -> tuple[str, Command | Any]:
    """(the source, the command) of `data ACTION SOURCE`. Raises UserError without one, SystemExit for bad flags."""
    usage = f"unified-jax data {action} PATH or RECIPE"
    if not arguments or arguments[0].startswith("-"):
        if not {"-h", "--help"} & set(arguments):
            raise UserError(f"Name a path or a recipe: {usage}. {usage} --help lists the flags.")
        parse(of_path, f"unified-jax data {action} PATH", ["--help"])
    word = arguments[0]
    if is_path(word):
        return word, parse(of_path, f"unified-jax data {action} {word}", arguments[1:])
    if not word.endswith(".py") and word not in (known := recipe_names()):
        raise UserError(f"There is no file, folder or recipe {word!r}{near_recipe(word, known)} Usage: {usage}.")
    called = (f"unified-jax data {action}", usage, f"{usage} --help lists the flags.")
    return parse_command(of_recipe, called, arguments)
