"""A BPE from the JSON of the `tokenizers` package, with settings of earlier uses removed.

Settings of one use are reset: truncation, padding, dropout, tokens that a post-processor puts around a text, added
tokens that absorb adjacent blanks. Settings that change the function of the text are refused: a normalizer that
changes letters, bytes that the vocabulary lacks, a decoder that is missing. `decode(encode(s)) == s` is checked on
texts that break those.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

PROBES = (
    "UPPER lower Mixed",
    "  blanks  at both ends ",
    "a tab\t, a line\n and another\r\n",
    "don't , can ' t . 12,345 [CLS] ## ! ?",
    "é e\u0301 ﬁ Å Ångström",
    "中文 \U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u00a0 \u3000 \ufeff",
    "".join(map(chr, range(256))),
)
"""Texts that a tokenizer without full byte coverage does not reproduce."""

SPARSE = 4
"""Largest accepted ratio of ids to tokens."""


@dataclass(frozen=True)
class Bpe:
    """A tokenizer that reproduces every text."""

    tokenizer: Any
    size: int
    """Largest token id + 1; ids without a token leave unused embedding rows."""

    def encode(self, text: str) -> list[int]:
        """Token ids of the text, without special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """The text, with added tokens as written."""
        return self.tokenizer.decode(ids, skip_special_tokens=False)


@lru_cache(maxsize=8)
def load_bpe(text: str) -> Bpe:
    """The tokenizer of this JSON. Raises ValueError with a reason if it is not a tokenizer, or not lossless."""
    from tokenizers import Tokenizer

    content = _content(text)
    settings: dict[str, Any] = {"truncation": None, "padding": None, "post_processor": None}
    added = [token | {"lstrip": False, "rstrip": False} for token in content.get("added_tokens") or []]
    model = content["model"] | ({"dropout": None} if content["model"].get("dropout") is not None else {})
    try:
        tokenizer: Any = Tokenizer.from_str(json.dumps(content | settings | {"added_tokens": added, "model": model}))
    except Exception as error:  # the package raises plain Exception
        raise ValueError(f"Text.bpe is not the JSON of a tokenizer: {error}.") from None
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise ValueError("Text.bpe has no token in its vocabulary.")
    size = max(vocabulary.values()) + 1
    if size > SPARSE * len(vocabulary):
        raise ValueError(f"Text.bpe has {len(vocabulary)} tokens but ids up to {size - 1}; number them without gaps.")
    bpe = Bpe(tokenizer, size)
    marks = [f"a{token['content']} {token['content']}  b" for token in added]
    for probe in (*PROBES, *marks):
        found = bpe.decode(bpe.encode(probe))
        if found != probe:
            place = next((i for i, (a, b) in enumerate(zip(probe, found, strict=False)) if a != b), len(found))
            was, becomes = (words[max(0, place - 3) : place + 8] for words in (probe, found))
            raise ValueError(
                f"Text.bpe does not reproduce every text: {was!r} becomes {becomes!r}; expected a BPE of bytes, as "
                f"learn_bpe makes it{_suspect(content)}."
            )
    return bpe


def _content(text: str) -> dict[str, Any]:
    """The JSON object, of a file that may begin with a byte order mark."""
    try:
        content = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Text.bpe is not the JSON of a tokenizer: {error}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        held = f"an object of {', '.join(list(content)[:5])}" if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"Text.bpe is not the JSON of a tokenizer but {held}; expected the content of tokenizer.json, not of "
            "tokenizer_config.json or vocab.json."
        )
    tokens = content.get("added_tokens") or []
    if not isinstance(tokens, list) or not all(
        isinstance(t, dict) and isinstance(t.get("content"), str) for t in tokens
    ):
        raise ValueError("Text.bpe has added_tokens that are not a list of tokens.")
    return content


def _suspect(content: dict[str, Any]) -> str:
    """The setting of a tokenizer that most likely changes texts."""
    normalizer, cutter = content.get("normalizer"), content.get("pre_tokenizer")
    if normalizer:
        return f" (its normalizer {normalizer.get('type', '')} changes texts; train it without one)"
    if "add_prefix_space" in json.dumps(cutter) and '"add_prefix_space": true' in json.dumps(cutter):
        return " (its add_prefix_space puts a blank before texts)"
    if not content.get("decoder"):
        return " (it has no decoder)"
    kind = content["model"].get("type", "BPE")
    return f" (it is a {kind})" if kind != "BPE" else " (its vocabulary may lack bytes)"
