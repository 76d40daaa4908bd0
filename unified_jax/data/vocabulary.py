"""Token ids of a model of several modalities: those of texts and labels, then begin and end tokens."""

from dataclasses import dataclass
from typing import Any

from unified_jax.modalities.label import Label
from unified_jax.modalities.text import Text

WRITTEN = (Text, Label)
"""Modalities that a document holds as token ids."""


def check_written(written: tuple[Text | Label, ...], others: tuple[Any, ...]) -> None:
    """Raises ValueError for what cannot be token ids of a document, or could only be."""
    if texts := [one.name for one in others if isinstance(one, WRITTEN)]:
        raise ValueError(
            f"Transfusion writes texts and labels: {', '.join(texts)} is no stream, it belongs into `written`."
        )
    if absent := [one.name for one in written if isinstance(one, Label) and one.absent]:
        raise ValueError(f"Transfusion has no token for an absent label; every record needs {', '.join(absent)}.")
    if kept := [one.name for one in written if isinstance(one, Text) and one.empty == "keep"]:
        raise ValueError(f"Transfusion writes texts of at least one token; {', '.join(kept)} keeps empty ones.")


@dataclass(frozen=True)
class Vocabulary:
    """Token ids: those of the texts and labels, then BOS, EOS, and begin and end of each modality."""

    text: int
    """Number of ids of all texts and labels together."""
    first: tuple[int, ...]
    """First id of each modality; texts with the same tokenizer share theirs."""
    sizes: tuple[int, ...]
    """Number of ids of each modality; 0 for anything but a text or label."""

    @property
    def size(self) -> int:
        """Number of all ids."""
        return self.text + 2 + 2 * len(self.first)

    @property
    def bos(self) -> int:
        """Id of BOS, which begins a document."""
        return self.text

    @property
    def eos(self) -> int:
        """Id of EOS, which ends a document."""
        return self.text + 1

    def begin(self, modality: int) -> int:
        """Id of the begin token of an item."""
        return self.text + 2 + 2 * modality

    def end(self, modality: int) -> int:
        """Id of the end token of an item."""
        return self.text + 3 + 2 * modality


def vocabulary_of(modalities: tuple[Any, ...]) -> Vocabulary:
    """The ids of a model of these modalities."""
    firsts: dict[Any, int] = {}
    total = 0
    for modality in modalities:
        if isinstance(modality, WRITTEN) and (key := _tokens_key(modality)) not in firsts:
            firsts[key] = total
            total += modality.vocabulary
    first = tuple(firsts[_tokens_key(m)] if isinstance(m, WRITTEN) else 0 for m in modalities)
    return Vocabulary(total, first, tuple(m.vocabulary if isinstance(m, WRITTEN) else 0 for m in modalities))


def _tokens_key(modality: Text | Label) -> str:
    return f"label {modality.name}" if isinstance(modality, Label) else f"bpe {modality.bpe}"


def token_names(modalities: tuple[Any, ...]) -> tuple[Any, ...]:
    """The meaning of each id, comparable across models: (tokens of a text or label, i), or BOS, EOS, begin and end."""
    names: dict[int, Any] = {}
    words = vocabulary_of(modalities)
    for m, modality in enumerate(modalities):
        if isinstance(modality, WRITTEN):
            key = _tokens_key(modality)
            names |= {words.first[m] + i: (key, i) for i in range(words.sizes[m])}
        names |= {words.begin(m): ("begin", modality.name), words.end(m): ("end", modality.name)}
    names |= {words.bos: ("begin", ""), words.eos: ("end", "")}
    return tuple(names[i] for i in range(words.size))
