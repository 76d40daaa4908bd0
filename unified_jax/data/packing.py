r"""Packing: records become documents of items, documents become rows of one length. Host side.

    document = BOS  begin_m content_m end_m  begin_k content_k end_k ...  EOS

The content of a text is its token ids, that of a label one id; that of other modalities is a *span*, one token per
patch. `Documents` samples which items are present, clean conditions or without context, in the order of the modalities
or in random order. Text at index i of a document has the position (i, i, i); a span that starts there has
(i + frame, i + row, i + column), and the next token has i + 1. Each token attends to one key range of its row:

    text, begin, end    from the document's first token to itself
    span                from the document's first token to the span's last (`causal`: to itself)
    alone               from the item's own begin token: the context is dropped (classifier-free guidance)

Packing is a pure function of the slots of one step. Row r takes the documents of the slots [r d, (r + 1) d), d =
`per_row`, in order; a document that does not fit is dropped and counted. So processes pack independently, and no state
is carried over.

Per token: ids, -1 for a span and 0 for padding; position; visible, the key range; item, 1 + d M + m for modality m of
the row's d-th document, 0 for tokens of no item (begin and end tokens included); text_weight, 1 where the next token is
predicted: both are text or begin or end tokens of one document, and no span starts in between. Per row, document and
modality: start, the first token of the content or -1; clean; limit, the greatest time; and `slot` of the document.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unified_jax.data.document_lengths import check_packer
from unified_jax.data.vocabulary import WRITTEN, Vocabulary, vocabulary_of
from unified_jax.modalities.base import Modality

TRAINING_STREAM = 1 << 32


@dataclass(frozen=True)
class Documents:
    """How a record becomes a document."""

    order: Literal["given", "random"] = "random"
    """Order of the modalities in a document: as the model lists them, or random."""
    text_first: float = 0.0
    """Probability of moving the text to the front of a random order (Transfusion: 0.8 for captions)."""
    text_last: float = 0.0
    """Probability of moving the text to the end, where it describes all other modalities."""
    keep: float = 1.0
    """Probability of including a modality; at least one is always included."""
    keep_of: tuple[tuple[str, float], ...] = ()
    """Pairs (modality, probability) that replace `keep`: lower for long modalities, higher for the most important."""
    whole: float = 0.0
    """Probability of including all modalities, whatever `keep` and `keep_of` say."""
    clean: float = 0.5
    """Probability that a span is a clean condition: no noise, and no loss."""
    clean_of: tuple[tuple[str, float], ...] = ()
    """Pairs (modality, probability) that replace `clean`: 1 is always a condition, 0 always generated."""
    alone: float = 0.1
    """Probability of dropping the context before a span (classifier-free guidance)."""
    noise_limit: float = 1.0
    """Greatest time of a span that precedes text (Transfusion: 0.5 for image captioning)."""
    causal: bool = False
    """Causal attention within a span, as in the paper's ablation; default: bidirectional."""
    apart: tuple[tuple[str, str], ...] = ()
    """Pairs of modalities that never share a document: the later of the two is left out."""
    per_row: int = 1
    """Most documents packed into one row."""

    def __post_init__(self) -> None:
        for name in ("text_first", "text_last", "keep", "whole", "clean", "alone", "noise_limit"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Documents.{name} must lie in [0, 1], found {getattr(self, name)}.")
        if self.text_first + self.text_last > 1:
            raise ValueError(
                f"Documents.text_first and text_last exclude each other: their sum is at most 1, found "
                f"{self.text_first} and {self.text_last}."
            )
        for name in ("keep_of", "clean_of"):
            if any(not 0 <= rate <= 1 for _, rate in getattr(self, name)):
                raise ValueError(f"Documents.{name} must lie in [0, 1], found {getattr(self, name)}.")
        for name in ("keep_of", "clean_of"):
            named = [one for one, _ in getattr(self, name)]
            if twice := [one for one in named if named.count(one) > 1]:
                raise ValueError(f"Documents.{name} names {twice[0]!r} twice.")
        if alike := [one for one, other in self.apart if one == other]:
            raise ValueError(f"Documents.apart keeps {alike[0]!r} apart from itself; name two modalities.")
        if self.per_row < 1:
            raise ValueError(f"Documents.per_row must be at least 1, found {self.per_row}.")

    def rate(self, name: str) -> float:
        """Probability of including a modality."""
        return dict(self.keep_of).get(name, self.keep)


@dataclass(frozen=True)
class Item:
    """One modality's item of a document."""

    modality: int
    ids: tuple[int, ...] = ()
    """Token ids of a text or label."""
    clean: bool = False
    alone: bool = False
    limit: float = 1.0


def choose_items(
    policy: Documents, modalities: tuple[Modality, ...], record: dict[str, np.ndarray], rng: np.random.Generator
) -> list[Item]:
    """Samples the items of one record's document."""
    count, words = len(modalities), vocabulary_of(modalities)
    order, draws = rng.permutation(count), rng.random((count, 3))
    rates = [policy.rate(m.name) for m in modalities]
    there = draws[:, 0] < rates
    moved, whole = rng.random(2)
    there |= whole < policy.whole
    there[next(m for m in order if rates[m])] |= not there.any()
    if moved < policy.text_first:
        order = sorted(order, key=lambda m: not isinstance(modalities[m], WRITTEN))
    elif moved >= 1 - policy.text_last:
        order = sorted(order, key=lambda m: isinstance(modalities[m], WRITTEN))
    chosen = [int(m) for m in (order if policy.order == "random" else range(count)) if there[m]]
    chosen = _kept_apart(policy.apart, modalities, chosen)
    items = []
    for place, m in enumerate(chosen):
        modality = modalities[m]
        if isinstance(modality, WRITTEN):
            ids = np.atleast_1d(record[modality.name])
            items.append(Item(m, tuple((words.first[m] + ids[ids >= 0]).tolist())))
            continue
        followed = any(isinstance(modalities[k], WRITTEN) for k in chosen[place + 1 :])
        limit = policy.noise_limit if followed else 1.0
        clean = dict(policy.clean_of).get(modality.name, policy.clean)
        items.append(Item(m, (), bool(draws[m, 1] < clean), bool(draws[m, 2] < policy.alone), limit))
    return items


def _kept_apart(apart: tuple[tuple[str, str], ...], modalities: tuple[Modality, ...], chosen: list[int]) -> list[int]:
    kept: list[int] = []
    for m in chosen:
        before = {modalities[k].name for k in kept}
        if not any(modalities[m].name in pair and before & (set(pair) - {modalities[m].name}) for pair in apart):
            kept.append(m)
    return kept


@dataclass(frozen=True)
class Packer:
    """Rows of `length` tokens for these modalities."""

    modalities: tuple[Any, ...]
    length: int
    policy: Documents = Documents()
    spans: tuple[tuple[str, Any], ...] = ()
    """(modality, what has the tokens and positions of its spans), where they are not its own: those of latents."""

    def __post_init__(self) -> None:
        check_packer(self)

    @property
    def vocabulary(self) -> Vocabulary:
        """The token ids."""
        return vocabulary_of(self.modalities)

    def content(self, m: int) -> int:
        """Tokens of a modality's content (of a text or label: at most)."""
        modality = self.modalities[m]
        return modality.length if isinstance(modality, WRITTEN) else self._span(m).tokens

    def positions(self, m: int) -> np.ndarray:
        """(frame, row, column) of a modality's tokens from the start of its span: `[k, 3]`."""
        return token_positions(self._span(m))

    def _span(self, m: int) -> Any:
        return dict(self.spans).get(self.modalities[m].name, self.modalities[m])

    def tokens_of(self, items: list[Item]) -> int:
        """Tokens of a document."""
        return 2 + sum(2 + (len(i.ids) if i.ids else self.content(i.modality)) for i in items)

    def pack(
        self, records: list[dict[str, np.ndarray]], slots: np.ndarray, seed: int, step: int
    ) -> dict[str, np.ndarray]:
        """The arrays of a step's rows from the records of its slots, in order; `len(records) / per_row` rows."""
        per_row = self.policy.per_row
        rows = len(records) // per_row
        arrays = self.empty(rows)
        for index, (record, slot) in enumerate(zip(records, slots, strict=True)):
            key = np.array([TRAINING_STREAM | seed, (step << 24) | int(slot)], np.uint64)
            items = choose_items(self.policy, self.modalities, record, np.random.Generator(np.random.Philox(key=key)))
            row, place = divmod(index, per_row)
            arrays["slot"][row, place] = slot
            used = arrays["used"][row]
            if used + self.tokens_of(items) > self.length:
                arrays["dropped"][row] += 1
                continue
            arrays["used"][row] = self.place(arrays, row, place, items, int(used))
            for item in items:
                modality = self.modalities[item.modality]
                if not isinstance(modality, WRITTEN):
                    arrays[modality.name][row, place] = record[modality.name]
        return arrays

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """The arrays of empty rows."""
        d, m, n = self.policy.per_row, len(self.modalities), self.length
        arrays = {
            "ids": np.zeros((rows, n), np.int32),
            "position": np.zeros((rows, n, 3), np.int32),
            "visible": np.zeros((rows, n, 2), np.int32),
            "item": np.zeros((rows, n), np.int32),
            "text_weight": np.zeros((rows, n), np.float32),
            "start": np.full((rows, d, m), -1, np.int32),
            "clean": np.zeros((rows, d, m), bool),
            "limit": np.ones((rows, d, m), np.float32),
            "slot": np.zeros((rows, d), np.int32),
            "used": np.zeros(rows, np.int32),
            "dropped": np.zeros(rows, np.int32),
        }
        for modality in self.modalities:
            if not isinstance(modality, WRITTEN):
                arrays[modality.name] = np.broadcast_to(modality.blank(), (rows, d, *modality.blank().shape)).copy()
        return arrays

    def place(self, arrays: dict[str, np.ndarray], row: int, place: int, items: list[Item], first: int) -> int:
        """Writes a document into a row from token `first` on; returns the token after it."""
        words = self.vocabulary
        at, position = first, 0
        ids, weight, visible = arrays["ids"][row], arrays["text_weight"][row], arrays["visible"][row]

        def write(values: tuple[int, ...], sees: int) -> None:
            nonlocal at, position
            stop = at + len(values)
            ids[at:stop], weight[at:stop] = values, 1.0
            arrays["position"][row, at:stop] = position + np.arange(len(values))[:, None]
            visible[at:stop, 0], visible[at:stop, 1] = sees, np.arange(at, stop) + 1
            at, position = stop, position + len(values)

        write((words.bos,), first)
        for item in items:
            number = 1 + place * len(self.modalities) + item.modality
            opened = at
            write((words.begin(item.modality),), at if item.alone else first)
            arrays["start"][row, place, item.modality] = at
            arrays["clean"][row, place, item.modality] = item.clean
            arrays["limit"][row, place, item.modality] = item.limit
            if item.ids:
                arrays["item"][row, at : at + len(item.ids)] = number
                write(item.ids, first)
            else:
                stop = at + self.content(item.modality)
                arrays["item"][row, at:stop] = number
                arrays["position"][row, at:stop] = position + self.positions(item.modality)
                ids[at:stop], weight[opened] = -1, 0.0
                visible[at:stop, 0] = opened if item.alone else first
                visible[at:stop, 1] = np.arange(at, stop) + 1 if self.policy.causal else stop
                at, position = stop, position + 1
            write((words.end(item.modality),), first)
        write((words.eos,), first)
        weight[at - 1] = 0.0
        return at


def token_positions(span: Any) -> np.ndarray:
    """(frame, row, column) of a span's tokens from its start: one axis is time, two are row and column."""
    given = span.positions()
    axes = given.shape[1]
    places = np.zeros((len(given), 3), np.int32)
    places[:, slice(1, 3) if axes == 2 else slice(0, axes)] = given
    return places
