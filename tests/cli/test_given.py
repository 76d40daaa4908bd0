"""Conditions from a command line, and figures that are no numbers: what is read, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest

from unified_jax.errors import RunError, UserError
from unified_jax.evaluation.finite import check_figures
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.numbers import Numbers
from unified_jax.modalities.sheets import show_samples
from unified_jax.modalities.text import Text
from unified_jax.models.diffusion import Diffusion
from unified_jax.runs.given import read_given, split_arguments


def test_captions_are_given_as_attributes(tmp_path):
    labels = (("shape", 6), ("colour", 8), ("size", 3), ("place", 9))
    model = Diffusion(conditions=tuple(Label(*label) for label in labels))
    (tmp_path / "captions.txt").write_text("a small red circle\n\na blue star at the top left\n")
    given, rest = split_arguments(["--run", "x", "--given.caption", f"@{tmp_path / 'captions.txt'}", "--count=4"])
    assert rest == ["--run", "x", "--count=4"]
    columns = read_given(given, model, 4)
    assert columns["shape"].tolist() == [0, 4, 0, 4]
    assert columns["colour"].tolist() == [0, 5, 0, 5]
    assert columns["size"].tolist() == [0, 3, 0, 3]
    assert columns["place"].tolist() == [9, 0, 9, 0]
    with pytest.raises(UserError, match="names 2 objects"):
        read_given({"caption": "a red circle and a blue star"}, model, 2)


@pytest.mark.parametrize(
    "content",
    ["ring\r\nstar\r\n\r\n", "ring\rstar", "\n ring\t\n\nstar", "\ufeffring\nstar\n", "utf-16", "utf-32"],
)
def test_condition_files_of_any_system(tmp_path, content):
    codec = content if content.startswith("utf") else "utf-8"
    (tmp_path / "v.txt").write_bytes(("ring\r\nstar\r\n" if codec == content else content).encode(codec))
    model = Diffusion(conditions=(Label("shape", 2, ("star", "ring")),))
    assert read_given({"shape": f"@{tmp_path / 'v.txt'}"}, model, 3)["shape"].tolist() == [1, 0, 1]
    for empty in (b"", b"\n\r\n", "\ufeff".encode()):
        (tmp_path / "v.txt").write_bytes(empty)
        with pytest.raises(UserError, match="holds no value"):
            read_given({"shape": f"@{tmp_path / 'v.txt'}"}, model, 3)


def test_blank_texts_are_prompts_where_the_model_reads_them(tmp_path):
    """Blank lines, but for the last ones, stay in their places, so that other files pair with them."""
    (tmp_path / "v.txt").write_text("a\n\nb\n\n")
    for empty, expected in (("keep", ["a", "", "b"]), ("refuse", ["a", "b", "a"])):
        text = Text(4, empty=empty)
        model = SimpleNamespace(modalities=(text,), givable=("caption",), wantable=())
        rows = read_given({"caption": f"@{tmp_path / 'v.txt'}"}, model, 3)["caption"]
        assert [text.decode(row) for row in rows] == expected
        if empty == "keep":
            assert text.decode(read_given({"caption": ""}, model, 1)["caption"][0]) == ""
    with pytest.raises(UserError, match="holds no value"):
        read_given({"caption": ""}, model, 1)


def test_numbers_are_separated_by_spaces_and_samples_by_commas(tmp_path):
    """And a label that is generated too has no null row: where it is not given it is absent."""
    modalities = (Numbers("size", 2), Label("shape", 6))
    model = SimpleNamespace(modalities=modalities, givable=("size", "shape"), wantable=("shape",))
    rows = read_given({"size": "1 2.5, 3 4"}, model, 3)
    assert set(rows) == {"size"}
    assert rows["size"].tolist() == [[1, 2.5], [3, 4], [1, 2.5]]
    (tmp_path / "sizes.txt").write_text("0 1\n")
    assert read_given({"size": f"@{tmp_path / 'sizes.txt'}"}, model, 1)["size"].tolist() == [[0, 1]]
    for given, words in (
        ({"size": "1"}, r"--given\.size .*expected 2 number"),
        ({"negative.size": "1"}, r"--negative\.size .*expected 2 number"),
        ({"caption": "a red star"}, "is conditioned on size, shape"),
    ):
        with pytest.raises(UserError, match=words):
            read_given(given, model, 1)
    picture = np.zeros((1, 16, 16, 3), np.uint8)
    show_samples((Image(16, 16, 3, 8), *modalities), {"size": rows["size"][:1]}, {"image": picture})


def test_a_metric_without_a_value_is_not_written():
    rows = [{"metric": "bits_per_dim", "split": "test", "value": float("nan")}]
    with pytest.raises(RunError, match="The metric bits_per_dim of the split 'test' is not a finite number"):
        check_figures(rows)
