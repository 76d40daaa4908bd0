"""Conditions from a command line, and figures that are no numbers: what is read, and what is refused."""

import pytest

from unified_jax.cli.given import parse_given, split_arguments
from unified_jax.errors import RunError, UserError
from unified_jax.evaluation.finite import check_figures
from unified_jax.modalities.label import Label


def test_captions_are_given_as_attributes(tmp_path):
    labels = tuple(Label(n, c) for n, c in (("shape", 6), ("colour", 8), ("size", 3), ("place", 9)))
    (tmp_path / "captions.txt").write_text("a small red circle\n\na blue star at the top left\n")
    given, rest = split_arguments(["--run", "x", "--given.caption", f"@{tmp_path / 'captions.txt'}", "--count=4"])
    assert rest == ["--run", "x", "--count=4"]
    columns = parse_given(given, labels, 4)
    assert columns["shape"].tolist() == [0, 4, 0, 4]
    assert columns["colour"].tolist() == [0, 5, 0, 5]
    assert columns["size"].tolist() == [0, 3, 0, 3]
    assert columns["place"].tolist() == [9, 0, 9, 0]
    with pytest.raises(UserError, match="names 2 objects"):
        parse_given({"caption": "a red circle and a blue star"}, labels, 2)


@pytest.mark.parametrize(
    "content",
    ["ring\r\nstar\r\n\r\n", "ring\rstar", "\n ring\t\n\nstar", "\ufeffring\nstar\n", "utf-16", "utf-32"],
)
def test_condition_files_of_any_system(tmp_path, content):
    codec = content if content.startswith("utf") else "utf-8"
    (tmp_path / "v.txt").write_bytes(("ring\r\nstar\r\n" if codec == content else content).encode(codec))
    labels = (Label("shape", 2, ("star", "ring")),)
    assert parse_given({"shape": f"@{tmp_path / 'v.txt'}"}, labels, 3)["shape"].tolist() == [1, 0, 1]
    for empty in (b"", b"\n\r\n", "\ufeff".encode()):
        (tmp_path / "v.txt").write_bytes(empty)
        with pytest.raises(UserError, match="holds no value"):
            parse_given({"shape": f"@{tmp_path / 'v.txt'}"}, labels, 3)


def test_a_metric_without_a_value_is_not_written():
    rows = [{"metric": "bits_per_dim", "split": "test", "value": float("nan")}]
    with pytest.raises(RunError, match="The metric bits_per_dim of the split 'test' is not a finite number"):
        check_figures(rows)
