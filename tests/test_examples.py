"""The examples in docstrings run and print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text(encoding="utf-8").count(">>> ")
    for path in sorted((ROOT / "unified_jax").rglob("*.py"))
}


@pytest.mark.parametrize("name", [name for name, count in EXAMPLES.items() if count])
def test_examples_of_a_module(name):
    """All examples run: doctest finds none in a function that a decorator has moved to another module."""
    found = doctest.testmod(importlib.import_module(name))
    assert found == (0, EXAMPLES[name])
