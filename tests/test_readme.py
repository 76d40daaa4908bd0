"""The commands of README and docs/commands.md exist and do what they say; README's table of recipes is complete."""

import re
import shlex
from functools import cache, reduce

import pytest

from unified_jax.cli import sample, train
from unified_jax.cli.main import COMMANDS
from unified_jax.config import to_plain
from unified_jax.runs.given import split_arguments
from unified_jax.runs.recipe import load_recipe, recipe_names
from unified_jax.runs.sampling_flags import parse_sampler

SWITCHES = ("dry_run",)
"""Flags without a value."""


def pages(root):
    """The text of both pages."""
    return "\n".join((root / page).read_text() for page in ("README.md", "docs/commands.md"))


def commands(root, command):
    """Words of each use of a command."""
    found = re.findall(rf"^unified-jax {command} (\S.*)$", pages(root), re.MULTILINE)
    return [shlex.split(line.replace("DIR", "some"), comments=True) for line in found]


def flags(words):
    """{path of names: the words after it} of the flags among words."""
    found, path = {}, ()
    for word in words:
        if word.startswith("--"):
            path = tuple(word[2:].replace("-", "_").split("."))
            found[path] = []
        else:
            found[path].append(word)
    return found


def leaves(plain, path=()):
    """{path of names: value} of a configuration."""
    if not isinstance(plain, dict):
        return {path: plain}
    return {place: value for name, one in plain.items() for place, value in leaves(one, (*path, name)).items()}


@cache
def saved(recipe):
    """A recipe's own configuration."""
    return leaves(to_plain(load_recipe(recipe)))


def check_train(words):
    """The flags of a command are in its experiment, and all else is the recipe's."""
    recipe, command = train.parse(words)
    said = flags(words[1:])
    for path, texts in said.items():
        top = command if hasattr(command, path[0]) else command.experiment
        value = reduce(getattr, path, top)
        if path[-1] in SWITCHES:
            assert value is True and not texts
            continue
        assert [str(one) for one in (value if isinstance(value, tuple) else [value])] == texts, path
    before, after = saved(recipe), leaves(to_plain(command.experiment))
    assert {path for path in before | after if before.get(path) != after.get(path)} <= set(said)
    return recipe


def test_every_train_command_trains_what_it_says(root):
    found = [check_train(words) for words in commands(root, "train")]
    assert set(found) <= set(recipe_names())
    assert len(found) >= 9


def test_a_train_command_that_says_something_else_is_found(monkeypatch):
    parse = train.parse
    monkeypatch.setattr(train, "parse", lambda words: parse([words[0], "--steps", "7"]))
    with pytest.raises(AssertionError):
        check_train(["quickstart"])
    with pytest.raises(AssertionError):
        check_train(["quickstart", "--steps", "8"])


def test_every_sample_command_fits_its_run(root):
    import tyro

    for words in (found := commands(root, "sample")):
        given, rest = split_arguments(words)
        command = tyro.cli(sample.SampleCommand, args=rest)
        folder, recipe = command.run.split("/")
        assert folder == "runs"
        assert f"unified-jax train {recipe}" in pages(root)
        model = load_recipe(recipe).model
        known = {*model.givable, "caption"}
        assert set(given) <= known
        assert set(filter(None, command.generate.split(","))) <= {m.name for m in model.modalities} - set(given)
        assert not command.sampler or parse_sampler(command.sampler)
    assert len(found) >= 7


def test_every_other_command_exists(root):
    named = set(re.findall(r"unified-jax (\w+)", pages(root)))
    assert named - {"COMMAND"} == set(COMMANDS)


def test_recipes_and_targets_that_are_named_exist(root):
    text, table = (root / "README.md").read_text(), (root / "docs" / "recipes.md").read_text()
    for name in recipe_names():
        assert f"`{name}`" in text, f"README's table of recipes lacks {name}"
        assert f"[`{name}`](../configs/{name}.py)" in table, f"docs/recipes.md lacks {name}"
    makefile = (root / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
