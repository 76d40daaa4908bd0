"""tiny_shakespeare: 40,000 lines of his plays, one text a split, as TFDS prepares it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unified_jax.data.public.base import Original, PublicSet, Records, unreadable

FILE = "input.txt"
COMMIT = "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"


def features() -> dict[str, Any]:
    """A text."""
    import tensorflow_datasets as tfds

    return {"text": tfds.features.Text()}


def splits(originals: Mapping[str, Path]) -> dict[str, Callable[[], Records]]:
    """The first 90 % are the training set, then 5 % each for validation and test."""
    path = originals[FILE]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    begin = int(len(text) * 0.9)
    middle = begin + int(len(text[begin:]) * 0.5)
    parts = {"train": text[:begin], "validation": text[begin:middle], "test": text[middle:]}
    return {name: lambda name=name, part=part: iter([(name, {"text": part})]) for name, part in parts.items()}


TINY_SHAKESPEARE = PublicSet(
    name="tiny_shakespeare",
    short="shakespeare",
    version="1.0.0",
    summary="plays of Shakespeare, one text a split",
    records="1 train, 1 validation, 1 test (1.1 million letters)",
    licence="public domain (text), MIT (repository)",
    licence_address="https://github.com/karpathy/char-rnn/blob/master/Readme.md",
    home="https://github.com/karpathy/char-rnn",
    originals=(
        Original(
            FILE,
            f"https://raw.githubusercontent.com/karpathy/char-rnn/{COMMIT}/data/tinyshakespeare/{FILE}",
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            1_115_394,
        ),
    ),
    features=features,
    splits=splits,
)
