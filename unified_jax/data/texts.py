"""The records of a data set that are used: `Text` may skip those with texts that are too long or empty.

Records are skipped before shuffling, and only by their content, so every process and every resumed run finds the same
list; the batch of step k stays a function of (seed, k). If nothing is skipped, the list is that of all records, and the
option changes no batch.

If such texts are refused instead, small data sets whose texts are quick to read are checked at the start; in others
the first such record ends the run.
"""

import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from unified_jax.data.base import DataSet, Source, fields_read
from unified_jax.errors import UserError
from unified_jax.hosts import writes
from unified_jax.modalities.text import Text

LOOKED_THROUGH = 10_000
"""Most records of a part that is checked at the start."""


@runtime_checkable
class Light(Protocol):
    """A source that reads few fields quickly: images that are not asked for are not decoded."""

    light: ClassVar[bool]


def kept_records(data: DataSet, split: str, modalities: tuple[Any, ...]) -> tuple[Int[np.ndarray, "k"] | None, ...]:
    """Indices of the records that are used, for each part of the data set; None for all.

    Raises UserError for a refused text, or if all records are skipped.
    """
    texts = tuple(m for m in modalities if isinstance(m, Text))
    if not texts:
        return tuple(None for _ in data.parts(split, fields_read(modalities)))
    try:
        hash(data)
    except TypeError:
        return _kept.__wrapped__(data, split, texts)
    return _kept(data, split, texts)


@lru_cache(maxsize=8)
def _kept(data: DataSet, split: str, texts: tuple[Text, ...]) -> tuple[Int[np.ndarray, "k"] | None, ...]:
    skips = any("skip" in (text.too_long, text.empty) for text in texts)
    parts = data.parts(split, tuple(text.name for text in texts))
    return tuple(_kept_of(name, source, texts, skips) for _, name, source in parts)


def _kept_of(name: str, source: Source, texts: tuple[Text, ...], skips: bool) -> Int[np.ndarray, "k"] | None:
    if not skips and not (isinstance(source, Light) and source.light and len(source) <= LOOKED_THROUGH):
        return None
    kept, refused = [], []
    for index in _indices(name, len(source), skips):
        record = source[index]
        try:
            if not any(text.left_out(record[text.name]) for text in texts if text.name in record):
                kept.append(index)
        except ValueError as error:
            refused.append((index, error))
    if refused:
        index, error = refused[0]
        raise UserError(
            f"Data set {name!r}: {len(refused)} of {len(source)} records have texts that are refused, the first is "
            f"record {index}: {error}."
        )
    if not kept and len(source):
        raise UserError(f"Data set {name!r}: every one of its {len(source)} texts is skipped; raise length.")
    if len(kept) == len(source):
        return None
    if writes():
        left_out = f"{len(source) - len(kept)} of {len(source)} records are left out"
        tqdm.write(f"Data set {name!r}: {left_out}, their texts are too long or empty.", file=sys.stderr)
    return np.asarray(kept, np.int64)


def _indices(name: str, count: int, told: bool) -> Iterator[int]:
    """0 .. count - 1, optionally with progress on stderr."""
    quiet = not (told and writes())
    return iter(tqdm(range(count), f"Texts of {name}", unit="record", dynamic_ncols=True, disable=quiet, delay=1))
