"""Recipes: a name under configs/ or a path to a Python file with `experiment() -> Experiment`, and for trainings in
stages `stages() -> tuple[Experiment, ...]`.

A recipe's keyword parameters, `experiment(size: int = 32)`, are its own flags: `train.py RECIPE --size 64`.
"""

import contextlib
import dataclasses
import importlib.metadata
import inspect
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from unified_jax.errors import UserError, meant
from unified_jax.runs.code import import_file
from unified_jax.runs.flags import first_word, parse
from unified_jax.training.experiment import Experiment

Built = TypeVar("Built")


def _configs() -> Path:
    """The recipes of the package: next to it in a checkout, else in the installed package."""
    beside = Path(__file__).resolve().parents[2] / "configs"
    if (beside / "quickstart.py").is_file():
        return beside
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("unified_jax") or ():
            if file.match("share/unified_jax/configs/quickstart.py"):
                return Path(file.locate()).resolve().parent
    return beside


CONFIGS = _configs()
RECIPE = ("recipe", "recipes")


def recipe_names() -> list[str]:
    """The recipes of the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.py"))


def load_recipe(name: str) -> Experiment:
    """The experiment a recipe builds. Raises UserError for an unknown or invalid recipe."""
    return load_built(name, CONFIGS, RECIPE, "experiment", Experiment)


def open_recipe(name: str, arguments: list[str], taken: Sequence[str] = ()) -> tuple[Experiment, list[str]]:
    """(the experiment of a recipe with the values that the arguments give its own parameters, the other arguments).

    `taken` are the command's flags. Raises UserError as `load_recipe`, and for a parameter named like another flag;
    SystemExit 2 for a value of another type.
    """
    build, rest = _with_values(name, "experiment", arguments, taken)
    return call_function(name, RECIPE, build, Experiment), rest


def open_stages(name: str, arguments: list[str], taken: Sequence[str]) -> tuple[tuple[Experiment, ...], list[str]]:
    """The same of the recipe's `stages()`, which returns a tuple of experiments (`runs.staged`)."""
    build, rest = _with_values(name, "stages", arguments, taken)
    found = call_function(name, RECIPE, build, tuple, "stages")
    if not found or not all(isinstance(one, Experiment) for one in found):
        kinds = ", ".join(type(one).__name__ for one in found) or "none"
        raise UserError(f"The recipe {name!r}: stages() returns one Experiment or more, found {kinds}.")
    return found, rest


def _with_values(
    name: str, function: str, arguments: list[str], taken: Sequence[str]
) -> tuple[Callable[[], Any], list[str]]:
    """(a function of a recipe with the values that the arguments give its parameters, the other arguments)."""
    build = find_function(name, CONFIGS, RECIPE, function)
    parameters = inspect.signature(build).parameters
    try:
        kinds = typing.get_type_hints(build)
    except NameError as error:
        raise UserError(f"The recipe {name!r}: an annotation is unknown when it runs ({error}); import it.") from None
    fields: list[Any] = []
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise UserError(f"The recipe {name!r}: *{parameter.name} is no flag; name each parameter, with a default.")
        if parameter.default is inspect.Parameter.empty:
            raise UserError(f"The recipe {name!r}: its parameter {parameter.name!r} needs a default.")
        if isinstance(parameter.default, list | dict | set):
            raise UserError(f"The recipe {name!r}: the default of {parameter.name!r} may change; write a tuple.")
        if parameter.name in {*taken, *(f.name for f in dataclasses.fields(Experiment))}:
            raise UserError(f"The recipe {name!r}: its parameter {parameter.name!r} is a flag already; rename it.")
        kind = kinds.get(parameter.name, type(parameter.default))
        fields.append((parameter.name, kind, dataclasses.field(default=parameter.default)))
    if not fields:
        return build, arguments
    own, rest = _split(arguments, [f[0] for f in fields])
    if {"-h", "--help"} & set(arguments):
        print("parameters of the recipe: " + ", ".join(f"--{n.replace('_', '-')} ({f.default})" for n, _, f in fields))
    made = parse(dataclasses.make_dataclass("Recipe", fields), f"recipe {name}", own, infinite=True)
    values = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
    return lambda: build(**values), rest


def parse_command(
    command: Callable[[Experiment], Built], called: tuple[str, str, str], arguments: list[str]
) -> tuple[str, Built]:
    """(recipe, command) of a command line that begins with a recipe, whose fields are flags beside the command's own.

    command  a dataclass whose first field is the experiment
    called   program, usage and help in messages

    Raises UserError without a recipe, SystemExit 2 for a bad flag.
    """
    recipe, (one,) = _parsed(command, called, arguments, lambda *given: _single(open_recipe(*given)))
    return recipe, one


def parse_stages(
    command: Callable[[Experiment], Built], called: tuple[str, str, str], arguments: list[str]
) -> tuple[str, list[Built]]:
    """The same for each of a recipe's stages, with the same flags."""
    return _parsed(command, called, arguments, open_stages)


def _single(opened: tuple[Experiment, list[str]]) -> tuple[tuple[Experiment, ...], list[str]]:
    return (opened[0],), opened[1]


def _parsed(
    command: Callable[[Experiment], Built],
    called: tuple[str, str, str],
    arguments: list[str],
    opened: Callable[[str, list[str], list[str]], tuple[tuple[Experiment, ...], list[str]]],
) -> tuple[str, list[Built]]:
    program, usage, more = called
    recipe = first_word(arguments, usage, "recipes", recipe_names(), more)
    kind = typing.cast(Any, command)
    experiments, flags = opened(recipe, arguments[1:], [field.name for field in dataclasses.fields(kind)])
    try:
        return recipe, [parse(kind, f"{program} {recipe}", flags, kind(one), infinite=True) for one in experiments]
    except SystemExit as stop:
        if stop.code and (hints := _near_parameters(recipe, flags)):
            print(f"The recipe {recipe!r} has parameters of its own: {hints}", file=sys.stderr)
        raise


def _near_parameters(recipe: str, flags: list[str]) -> str:
    """For each flag that is close to a parameter of the recipe, which one was meant."""
    own = inspect.signature(find_function(recipe, CONFIGS, RECIPE, "experiment")).parameters
    words = [word[2:].partition("=")[0] for word in flags if word.startswith("--") and "." not in word]
    near = [(word, meant(word, [name.replace("_", "-") for name in own], "--")) for word in words]
    return " ".join(f"--{word}{said}" for word, said in near if said != ".")


def _split(arguments: list[str], names: list[str]) -> tuple[list[str], list[str]]:
    """(flags of these names with their values, the rest)."""
    own: list[str] = []
    rest: list[str] = []
    into = rest
    for argument in arguments:
        if argument.startswith("--"):
            flag = argument[2:].partition("=")[0].replace("-", "_")
            into = own if flag in names or flag.removeprefix("no_") in names else rest
        into.append(argument)
    return own, rest


def near_recipe(name: str, known: Sequence[str]) -> str:
    """`; did you mean X?`: a file here whose suffix was left out, or a name that is close (`errors.meant`)."""
    return f"; did you mean {name}.py?" if name and Path(f"{name}.py").is_file() else meant(name, known)


def load_built(name: str, folder: Path, words: tuple[str, str], function: str, kind: type[Built]) -> Built:
    """What `function()` of a file returns: of `folder`/`name`.py, or of a path to a .py file.

    `words` name such a file, in singular and plural. Raises UserError if it is missing or invalid.
    """
    return call_function(name, words, find_function(name, folder, words, function), kind)


def find_function(name: str, folder: Path, words: tuple[str, str], function: str) -> Callable[..., Any]:
    """The function of that name in a file, imported as a module. Raises UserError if missing."""
    one, several = words
    path = Path(name) if name.endswith(".py") else folder / f"{name}.py"
    if not path.is_file():
        known = sorted(other.stem for other in folder.glob("*.py"))
        what = f"Unknown {one} {name!r}{near_recipe(name, known)}"
        if name.endswith(".py"):
            what = f"The {one} file {name!r} {'is a folder' if path.is_dir() else 'does not exist'}."
        raise UserError(f"{what} {several.capitalize()}: {', '.join(known)}, or a path to a .py file.")
    build = _tried(name, words, lambda: getattr(import_file(path), function, None))
    if not callable(build):
        raise UserError(f"The {one} {name!r} needs a function {function}().")
    return build


def call_function(
    name: str, words: tuple[str, str], build: Callable[[], Any], kind: type[Built], function: str = ""
) -> Built:
    """What a file's function returns. Raises UserError for another type, or if it raises."""
    built = _tried(name, words, build)
    if not isinstance(built, kind):
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        called = function or kind.__name__.lower()
        raise UserError(
            f"The {words[0]} {name!r} needs a function {called}() that returns {article} {kind.__name__}, found "
            f"{type(built).__name__}."
        )
    return built


def _tried(name: str, words: tuple[str, str], do: Callable[[], Any]) -> Any:
    try:
        return do()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"The {words[0]} {name!r} cannot be read: {type(error).__name__}: {error}") from error


def recipe_label(name: str) -> str:
    """The name of a recipe's default run directory."""
    return Path(name).stem
