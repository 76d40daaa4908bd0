"""A prompt as the ids of several tokenizers, one after the other: what a network with several text encoders reads."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from unified_jax.modalities.text import Text


@dataclass(frozen=True)
class Prompts(Text):
    """A text whose ids are read by several tokenizers; its own is the first, which also writes ids as text."""

    others: tuple[Text, ...] = ()
    """The further tokenizers, each with its length."""

    @property
    def parts(self) -> tuple[Text, ...]:
        """All tokenizers, in the order of their ids."""
        own = {one.name: getattr(self, one.name) for one in dataclasses.fields(Text)}
        return (Text(**own), *self.others)

    def split(self, ids: Any) -> tuple[Any, ...]:
        """Arrays of ids `[..., sum of lengths]` as those of each tokenizer."""
        ends = np.cumsum([one.length for one in self.parts])
        starts = [0, *ends[:-1].tolist()]
        return tuple(ids[..., start:end] for start, end in zip(starts, ends.tolist(), strict=True))

    def blank(self) -> Int[np.ndarray, " total"]:
        """See `Continuous.blank`."""
        return np.concatenate([one.blank() for one in self.parts])

    def prepare(self, raw: Any) -> Int[np.ndarray, " total"]:
        """The ids of each tokenizer, padded with -1. Raises ValueError as `Text.prepare` does."""
        return np.concatenate([one.prepare(raw) for one in self.parts])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the ids of one text."""
        return (sum(one.length for one in self.parts),)

    def decode(self, ids: Int[np.ndarray, " k"]) -> str:
        """The text of the first tokenizer's ids."""
        return super().decode(ids[: self.length])


def joined(parts: tuple[Text, ...]) -> Prompts:
    """One text of several tokenizers. Raises ValueError unless they have one name."""
    first, *others = parts
    if any(one.name != first.name for one in others):
        raise ValueError(f"Prompts are one field, found {', '.join(one.name for one in parts)}.")
    own = {one.name: getattr(first, one.name) for one in dataclasses.fields(Text)}
    return Prompts(**own, others=tuple(others))
