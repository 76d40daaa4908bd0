"""Pages lead somewhere, their numbers and Python are right, notebooks are small and were executed without an error."""

import ast
import json
import os
import re
import sys
import types
from unittest import mock

import pytest
from PIL import Image

import unified_jax as uj
from tests.laws import ROOMS
from unified_jax.data.pipeline import Pipeline

LINK = re.compile(r"\]\((?!https?:|mailto:)([^()\s#]*)(#[^()\s]+)?\)")
BIG = 200_000
"""Bytes of a notebook, at most."""


def pages(root):
    return sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "benchmarks").glob("*.md")])


def anchors(page):
    """Anchors of a page's headings, as GitHub and the site make them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def test_links_lead_to_files_and_headings(root):
    wrong = []
    for page in pages(root):
        for link, anchor in LINK.findall(page.read_text(encoding="utf-8")):
            target = page.parent / link if link else page
            generated = target.parent == root / "docs" / "api" and target.stem in ROOMS
            if not target.is_file() and not generated:
                wrong.append(f"{page.relative_to(root)}: {link}")
            elif anchor and target.suffix == ".md" and anchor[1:] not in anchors(target):
                wrong.append(f"{page.relative_to(root)}: {link}{anchor}")
    assert not wrong, wrong


def test_every_page_is_in_the_sites_navigation(root):
    named = set(re.findall(r"[\w/-]+\.(?:md|ipynb)", (root / "mkdocs.yml").read_text()))
    docs = root / "docs"
    there = {str(path.relative_to(docs)) for kind in ("md", "ipynb") for path in docs.rglob(f"*.{kind}")}
    tables = {str(path.relative_to(docs)) for path in docs.glob("studies/*/table.md")}
    generated = {f"api/{package}.md" for package in ROOMS}
    assert named == (there - tables) | generated
    index = (docs / "api" / "index.md").read_text()
    assert all(f"[{package}]({package}.md)" in index for package in ROOMS)


@pytest.mark.parametrize("name", ["quickstart", "two_dimensions"])
def test_notebooks_are_small_and_ran(root, name):
    path = root / "docs" / "notebooks" / f"{name}.ipynb"
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert path.stat().st_size < BIG
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert "error" not in kinds
    assert "display_data" in kinds
    streams = "".join("".join(o["text"]) for cell in cells for o in cell["outputs"] if o["output_type"] == "stream")
    assert "Warning" not in streams
    assert str(root) not in path.read_text()
    code = "\n".join(line for cell in cells for line in cell["source"] if not line.startswith("%"))
    used = {node.attr for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute) and is_uj(node.value)}
    assert used <= set(dir(uj))


def is_uj(node):
    return isinstance(node, ast.Name) and node.id == "uj"


def measured(root):
    """{name in README: number}, from the files that commands wrote."""
    found = {}
    for name, one in json.loads((root / "docs" / "measurements.json").read_text()).items():
        rows = [row for row in one.get("evaluation", []) if row["split"] == "test"]
        rows = rows or one.get("evaluation", [])
        rows = [row for row in rows if len(rows) < 20 or (row["given"], row["wanted"]) == (["caption"], ["image"])]
        rows = [row for row in rows if not row["metric"].startswith("gibbs")]
        found |= {name: rows[0]["value"]} if rows else {}
    tuned = json.loads((root / "benchmarks" / "results" / "finetuning.json").read_text())
    (found["world_edits"],) = [
        row["value"]
        for row in tuned["edits"]["after"]["rows"]
        if (row["split"], row["metric"]) == ("test", "edit_accuracy")
    ]
    found["emoji_from_world"] = tuned["emoji"]["world"]["rows"][0]["value"]
    pairs = [pair["value"] for pair in tuned["action"]["tuned"][0]["new_pairs"]]
    found["world_with_action"] = sum(pairs) / len(pairs)
    studies = json.loads((root / "benchmarks" / "results" / "studies.json").read_text())["rows"]
    (same,) = [row["found"] for row in studies if row["study"] == "same_twice"]
    found["world_tiny"] = next(
        row["mean"]["value"] for row in same if (row["metric"], row["arm"]) == ("attribute accuracy", "base")
    )
    return found


def test_numbers_of_recipes_are_those_of_their_files(root):
    """The last column of README's table, and the first number of a row of docs/recipes.md."""
    values, seen = measured(root), set()
    rows = re.findall(r"^\| (`\w.*) \| .* \| (.*) \|$", (root / "README.md").read_text(), re.MULTILINE)
    for names, said in rows:
        names, numbers = re.findall(r"`(\w+)`", names), re.findall(r"\d+\.\d+", said)
        if said == "not measured":
            assert not set(names) & set(values)
            continue
        for name, number in zip(names, numbers, strict=True):
            assert f"{values[name]:.{len(number.split('.')[1])}f}" == number, name
            seen.add(name)
    assert seen == set(values)
    text = (root / "docs" / "recipes.md").read_text()
    for names, said in re.findall(r"^\| (\[`\w+`\][^|]*) \|.* \| ([^|]*) \|$", text, re.MULTILINE):
        (name, *more), numbers = re.findall(r"`(\w+)`", names), re.findall(r"\d+\.\d+", said)
        assert not (more and numbers), names  # a number of several recipes is of none
        if name in values and numbers:
            assert f"{values[name]:.{len(numbers[0].split('.')[1])}f}" == numbers[0], name


def python_of(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_readmes_python_calls_what_there_is(root, monkeypatch):
    """Training and sampling are stand-ins with the real signatures; the notebooks do the same for real."""
    (code,) = python_of(root / "README.md")
    run = mock.create_autospec(uj.Run, instance=True)
    monkeypatch.setattr(uj, "train", mock.create_autospec(uj.train, return_value=run))
    monkeypatch.setattr(uj, "evaluate", mock.create_autospec(uj.evaluate))
    exec(compile(code, "README.md", "exec"), {})
    experiment, folder = uj.train.call_args.args
    assert (experiment, folder) == (uj.recipe("quickstart"), "runs/quickstart")
    known = {*experiment.model.givable, "caption"}
    assert run.sample.call_count == 2
    assert all(set(call.args[0]) <= known for call in run.sample.call_args_list)


def test_the_recipe_of_own_data_reads_a_folder(root, tmp_path):
    code = python_of(root / "docs" / "own_data.md")[0]
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.new("RGBA", (40, 60), (255, 0, 0, 255)).save(tmp_path / split / "a.png")
        line = {"file_name": "a.png", "class": "dog", "caption": "a dog"}
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    module = types.ModuleType("pictures")
    sys.modules["pictures"] = module  # a dataclass looks its module up
    exec(compile(code, "own_data.md", "exec"), module.__dict__)
    experiment = module.experiment(str(tmp_path), 16)
    batch = Pipeline(experiment.data, "train", experiment.model.modalities, 2, 0).batch(0).arrays
    assert batch["image"].shape == (2, 16, 16, 3)
    assert batch["image"][0, 8, 8].tolist() == [255, 0, 0]
    assert batch["label"].tolist() == [1, 1]


@pytest.mark.parametrize("page", ["processes.md", "recipes.md", "world.md"])
def test_the_python_of_short_pages_runs(root, page):
    blocks = python_of(root / "docs" / page)
    assert blocks
    for code in blocks:
        exec(compile(code, page, "exec"), {})


def test_images_of_pages_are_small(root):
    assert all(os.path.getsize(path) < 100_000 for path in (root / "docs" / "world").glob("*.png"))
