"""Sets of the Hugging Face hub, by a stand-in for their library: it opens what it was asked for, nothing else."""

import sys
import types

import pyarrow as pa
import pytest

from unified_jax.data.hub import Hub
from unified_jax.errors import UserError


def library(calls):
    """What `datasets` gives of two splits: tables, and features with an Arrow schema."""
    table = pa.table({"text": ["a", "b", "c"], "kind": ["x", "y", "x"], "image": [b"1", b"2", b"3"]})

    def load_dataset(name, config, cache_dir):
        calls.append((name, config, cache_dir))
        if name == "nobody/nothing":
            raise FileNotFoundError("Dataset 'nobody/nothing' doesn't exist on the Hub")
        one = types.SimpleNamespace(
            data=types.SimpleNamespace(table=table), features=types.SimpleNamespace(arrow_schema=table.schema),
            column_names=table.column_names,
        )  # fmt: skip
        return {"train": one, "validation": one}

    return types.SimpleNamespace(load_dataset=load_dataset)


def test_a_set_of_the_hub_is_opened_by_name(monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "datasets", library(calls))
    data = Hub("someone/pictures", rename=(("caption", "text"), ("label", "kind")), test=0.34, cache="here")
    assert not calls  # nothing is opened before it is used
    ((_, name, source),) = data.parts("validation", ("caption", "label", "image"))
    assert name == "someone/pictures" and calls == [("someone/pictures", None, "here")]
    assert [(r["caption"], r["label"], r["image"].content) for r in (source[i] for i in range(3))] == [
        ("a", 0, b"1"), ("b", 1, b"2"), ("c", 0, b"3"),
    ]  # fmt: skip
    assert dict(source.class_names) == {"label": ("x", "y")}
    assert (data.splits(), data.columns("train")) == (("train", "validation", "test"), ("text", "kind", "image"))
    assert [len(data.parts(split, ("caption",))[0][2]) for split in ("train", "test")] == [2, 1]
    with pytest.raises(UserError, match=r"'nobody/nothing' cannot be opened by datasets: .* doesn't exist"):
        Hub("nobody/nothing").parts("train", ("image",))


def test_without_the_library_the_hub_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        Hub("someone/pictures").parts("train", ("image",))
