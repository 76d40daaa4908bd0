"""A BPE or a WordPiece from the JSON of the `tokenizers` package, with settings of earlier uses removed.

Settings of one use are reset: truncation, padding, dropout, tokens that a post-processor puts around a text, added
tokens that absorb adjacent blanks. Settings that change the function of the text are refused: a normalizer that
changes letters, bytes that the vocabulary lacks, a decoder that is missing. `decode(encode(s)) == s` is checked on
texts that break those.

The tokenizers of text encoders are made to be read, not written: a WordPiece (BERT), a Unigram (T5), a BPE that marks
where words end (CLIP). Their normalizers may lower letters, unknown words become one token, and their post-processors
put tokens around each text ([CLS] and [SEP], or an end token). They keep all of these.
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
    """A tokenizer: a BPE that reproduces every text, or that of a text encoder."""

    tokenizer: Any
    size: int
    """Largest token id + 1; ids without a token leave unused embedding rows."""
    before: tuple[int, ...] = ()
    """Ids that a text encoder's puts before every text: [CLS]."""
    after: tuple[int, ...] = ()
    """Ids that a text encoder's puts after every text: [SEP]."""

    def encode(self, text: str) -> list[int]:
        """Token ids of the text, between those around it."""
        return [*self.before, *self.tokenizer.encode(text, add_special_tokens=False).ids, *self.after]

    def decode(self, ids: list[int]) -> str:
        """The text, with added tokens as written, without those around it."""
        start, stop = len(self.before), len(ids) - len(self.after)
        ids = ids[:stop] if self.after and tuple(ids[stop:]) == self.after else ids
        ids = ids[start:] if tuple(ids[:start]) == self.before else ids
        return self.tokenizer.decode(ids, skip_special_tokens=False)


@lru_cache(maxsize=8)
def load_bpe(text: str) -> Bpe:
    """The tokenizer of this JSON. Raises ValueError with a reason if it is not a tokenizer, or not lossless."""
    from tokenizers import Tokenizer

    content = _content(text)
    pieces = _of_encoder(content["model"])
    settings: dict[str, Any] = {"truncation": None, "padding": None}
    settings |= {} if pieces else {"post_processor": None}
    strip = {} if pieces else {"lstrip": False, "rstrip": False}
    added = [token | strip for token in content.get("added_tokens") or []]
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
    if pieces:
        return _around(tokenizer, size)
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


def wordpiece_json(vocabulary: list[str], lowercase: bool = True) -> str:
    """The JSON of BERT's tokenizer with these tokens, the lines of a vocab.txt; `lowercase` also drops accents.

    Raises ValueError for tokens that are repeated, or without [UNK], [CLS] and [SEP].
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    ids = {token: i for i, token in enumerate(vocabulary)}
    missing = [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in ids]
    if missing:
        raise ValueError(f"A WordPiece vocabulary needs [UNK], [CLS] and [SEP]; {', '.join(missing)} is missing.")
    if len(ids) < len(vocabulary):
        twice = next(token for i, token in enumerate(vocabulary) if ids[token] != i)
        raise ValueError(f"A WordPiece vocabulary has each token once; {twice!r} is there more often.")
    tokenizer: Any = Tokenizer(models.WordPiece(vocab=ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.add_special_tokens([t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if t in ids])
    return tokenizer.to_str()


def _of_encoder(model: dict[str, Any]) -> bool:
    """Whether a model is one that text encoders have."""
    pieces = "max_input_chars_per_word" in model  # older files do not say "type": "WordPiece"
    return pieces or model.get("type") == "Unigram" or bool(model.get("end_of_word_suffix"))


def _around(tokenizer: Any, size: int) -> Bpe:
    """A tokenizer with the ids that its post-processor puts around a text. Raises ValueError if it lacks [UNK]."""
    unknown = getattr(tokenizer.model, "unk_token", None)
    if hasattr(tokenizer.model, "max_input_chars_per_word") and tokenizer.token_to_id(unknown) is None:
        raise ValueError(
            f"Text.bpe is a WordPiece whose token of unknown words, {unknown!r}, is not in its vocabulary."
        )
    around = tokenizer.encode("a")
    text = [i for i, special in enumerate(around.special_tokens_mask) if not special] or [len(around.ids)]
    return Bpe(tokenizer, size, tuple(around.ids[: text[0]]), tuple(around.ids[text[-1] + 1 :]))


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
