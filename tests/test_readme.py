"""The README's commands exist and its links lead somewhere."""

import re
import shlex

from unified_jax.cli import sample, train
from unified_jax.cli.given import split_arguments
from unified_jax.cli.recipe import load_recipe, recipe_names


def commands(root):
    return re.findall(r"^python (\S.*)$", (root / "README.md").read_text(), re.MULTILINE)


def test_every_train_and_sample_command_parses(root):
    import tyro

    seen = 0
    for line in commands(root):
        words = shlex.split(line, comments=True)
        if words[0] == "train.py":
            recipe, command = train.parse([w.replace("DIR", "some") for w in words[1:]])
            assert recipe in recipe_names()
            assert command.experiment.model == command.experiment.model
            seen += 1
        elif words[0] == "sample.py":
            given, rest = split_arguments(words[1:])
            assert tyro.cli(sample.SampleCommand, args=rest).run.startswith("runs/")
            known = {c.name for c in load_recipe(rest[rest.index("--run") + 1].split("/")[-1]).model.conditions}
            assert set(given) <= known | {"caption"}
            seen += 1
    assert seen >= 5


def test_recipes_and_files_that_are_named_exist(root):
    text = (root / "README.md").read_text()
    missing = [name for name in recipe_names() if f"`{name}`" not in text]
    assert not missing, f"README's table of recipes lacks {missing}"
    for path in re.findall(r"\]\((docs/\S+?)\)", text):
        assert (root / path).exists(), path
    for target in ("quickstart", "test", "test-latest"):
        assert f"make {target}" in text
        assert re.search(rf"^{target}:", (root / "Makefile").read_text(), re.MULTILINE)
