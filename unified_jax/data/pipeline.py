r"""The stateless pipeline: the batch of step k is a pure function of (seed, k).

A seed defines one infinite, shuffled list of examples (Grain: each epoch shuffled anew, parts of a mixture interleaved
by weight). Step k takes its positions [k B, (k + 1) B); a process prepares the rows of its devices. An example's *slot*
is its position in that global batch; random numbers, also those of random crops (`base.Varies`), depend on no other
position. There is no iterator state: resuming at step k starts reading at step k. An example's id is (part << 40) +
index in its source. Skipped records (`data.texts`) are removed before shuffling. Pictures of several proportions are
batched by size (`data.buckets`), or lie side by side in rows (`data.packed_rows`).
"""

import os
import zlib
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from unified_jax.data.base import (
    Accompanied,
    DataSet,
    Named,
    Recorded,
    Source,
    derived_first,
    fields_read,
    open_parts,
    prepare_example,
    record_of,
    told,
    vary_example,
    varying,
)
from unified_jax.data.buckets import Buckets, bucketed, divide, sized
from unified_jax.data.packed_rows import RowPacker, roomiest
from unified_jax.data.packing import Packer
from unified_jax.data.prefetch import Prefetcher
from unified_jax.data.texts import kept_records
from unified_jax.errors import UserError
from unified_jax.modalities.base import Modality
from unified_jax.modalities.crop import sizes_of
from unified_jax.modalities.label import Label

PART_BITS = 40
MOST_THREADS = 8
"""Each holds a batch."""
VARY = 1 << 33
"""Marks the keys of variations; those of packing are marked by 1 << 32, and a seed has 32 bits."""


@dataclass(frozen=True)
class HostBatch:
    """One process's part of the batch of one step."""

    arrays: dict[str, np.ndarray]
    """This process's rows `[b', ...]` of every field, and `slot`; packed rows as in `data.packing`."""
    ids: Int[np.ndarray, "b"]
    """Example ids of the global batch."""
    first: int
    """Global position of the batch's first example."""
    rows: Int[np.ndarray, "b"] | None = None
    """The row of each slot where rows are of mixed sizes, -1 of one that was dropped; None: they follow the slots."""

    @property
    def examples(self) -> list[int]:
        """[first position, last position, crc32 of the ids], as the metrics record it."""
        return [self.first, self.first + len(self.ids) - 1, zlib.crc32(self.ids.astype("<i8").tobytes())]


class Pipeline:
    """Batches of a data set for a model's modalities."""

    def __init__(
        self,
        data: DataSet,
        split: str,
        modalities: tuple[Modality, ...],
        batch_size: int,
        seed: int,
        rows: Int[np.ndarray, "r"] | None = None,
        packer: Packer | RowPacker | None = None,
        vary: bool = False,
    ) -> None:
        """Opens the data set and checks its first example. A packer combines several examples into a row.

        `rows` are the rows of a batch that this process prepares, default all; with `vary` the examples of a batch are
        varied (random crops and flips, see `Varies`). Raises UserError for bad data.
        """
        documents = packer.policy.per_row if packer else 1
        if batch_size < 1 or batch_size % documents:
            raise UserError(
                f"A batch of {batch_size} examples does not fill rows of {documents} documents; choose a multiple."
            )
        rows = np.arange(batch_size // documents, dtype=np.int32) if rows is None else rows
        self.modalities, self.batch_size, self.name = modalities, batch_size, data.name
        self.seed, self.rows = seed, rows
        self.packer, self.mixer = (None, packer) if isinstance(packer, RowPacker) else (packer, None)
        self.parts = open_parts(data, split, fields_read(modalities))
        self.varying = [varying((source, *derived_first(modalities))) if vary else () for _, _, source in self.parts]
        for _, name, source in self.parts:
            if len(source) == 0:
                raise UserError(f"Data set {name!r}: split {split!r} is empty.")
        self.kept = kept_records(data, split, modalities)
        used = [source if kept is None else kept for kept, (_, _, source) in zip(self.kept, self.parts, strict=True)]
        self.order = _global_order(
            tuple((weight, name, list_) for (weight, name, _), list_ in zip(self.parts, used, strict=True)), seed
        )
        self.views = [(modalities, self.varying)]
        self.buckets = self._divided(vary) if self.mixer or (vary and bucketed(modalities)) else None
        self.slots = (rows[:, None] * documents + np.arange(documents, dtype=np.int32)).reshape(-1).astype(np.int32)
        check_classes(self.name, self.parts, self.modalities)
        for part in range(len(self.parts)):
            self.example(self._id(part << PART_BITS))

    def batch(self, step: int) -> HostBatch:
        """The batch of one step."""
        first = step * self.batch_size
        if self.mixer and self.buckets:
            return self._mixed(self.mixer, self.buckets, step)
        if self.buckets is None:
            view, places = 0, [int(self.order[first + slot]) for slot in range(self.batch_size)]
        else:
            view, places = self.buckets.records(step)
        ids = np.asarray([self._id(int(place)) for place in places], np.int64)
        examples = [self.example(int(ids[slot]), (step, int(slot)), view) for slot in self.slots]
        if self.packer:
            return HostBatch(self.packer.pack(examples, self.slots, self.seed, step), ids, first)
        arrays = {name: np.stack([example[name] for example in examples]) for name in (examples[0] if examples else ())}
        return HostBatch(arrays | {"slot": self.slots}, ids, first)

    def _mixed(self, mixer: RowPacker, buckets: Buckets, step: int) -> HostBatch:
        """The batch of a step in rows of mixed sizes."""
        sizes, places = buckets.mixed(step, self.batch_size)
        ids = np.asarray([self._id(int(place)) for place in places], np.int64)
        rows = mixer.rows_of(sizes)

        def example(slot: int) -> dict[str, np.ndarray]:
            return self.example(int(ids[slot]), (step, slot), int(sizes[slot]))

        return HostBatch(mixer.pack(self.rows, rows, sizes, example), ids, step * self.batch_size, rows)

    def batches(self, first_step: int, threads: int = 0, buffer: int = 4) -> Prefetcher[HostBatch]:
        """Batches from `first_step` on, prepared in the background, without end; threads 0: as many as cores feed."""
        threads = threads or preparing_threads()
        return Prefetcher(self.batch, first_step, threads, max(buffer, threads))

    @property
    def size(self) -> int:
        """The number of examples, without skipped records."""
        return sum(len(s if kept is None else kept) for kept, (_, _, s) in zip(self.kept, self.parts, strict=True))

    def described(self) -> list[dict[str, Any]]:
        """Name, number of examples, crc32 of the first example, and digests if it has them, of each part."""
        found = []
        for part, (_, name, source) in enumerate(self.parts):
            first = self.example(self._id(part << PART_BITS))
            crc = zlib.crc32(b"".join(np.ascontiguousarray(first[field]).tobytes() for field in sorted(first)))
            digest = {"digest": source.digest} if isinstance(source, Recorded) else {}
            if isinstance(source, Accompanied) and source.beside:
                digest["beside"] = source.beside
            found.append({"name": name, "examples": len(source), "first": crc, **digest})
        return found

    def class_names(self) -> dict[str, tuple[str, ...]]:
        """Field -> names of its classes, as far as the data set knows them."""
        return class_names(self.parts)

    def _id(self, place: int) -> int:
        """The id of the example at a position of the lists before shuffling, which omit skipped records."""
        part, index = place >> PART_BITS, place & ((1 << PART_BITS) - 1)
        kept = self.kept[part]
        return place if kept is None else (part << PART_BITS) + int(kept[index])

    def _divided(self, vary: bool) -> Buckets:
        """The records by the proportions of their pictures, all of which are looked at; and a view for each size."""
        bucket: Any = bucketed(self.modalities)
        image, (_, name, source) = self.mixer.image if self.mixer else bucket, self.parts[0]
        if len(self.parts) > 1 or self.packer:
            raise UserError("Buckets need a data set of one part, and a model that stacks its examples.")
        self.views = []
        for size in image.sizes:
            view = sized(self.modalities, image, size)
            self.views.append((view, [varying((source, *derived_first(view))) if vary else ()]))

        def sizes(place: int) -> tuple[int, int]:
            raw = source[self._id(place)].get(image.name)
            with told(name, place, image.name, raw):
                return sizes_of(raw)

        count = len(source if self.kept[0] is None else self.kept[0])
        if self.mixer:
            return Buckets(divide(sizes, count, image, roomiest), 1, self.seed)
        return Buckets(divide(sizes, count, image), self.batch_size, self.seed)

    def example(self, example_id: int, place: tuple[int, int] | None = None, view: int = 0) -> dict[str, np.ndarray]:
        """One example by its id, prepared; varied for its place (step, slot). Raises UserError for bad data.

        `view` is the bucket whose size its image gets.
        """
        part, index = example_id >> PART_BITS, example_id & ((1 << PART_BITS) - 1)
        _, name, source = self.parts[part]
        raw, (modalities, owners) = record_of(source, name, index), self.views[view]
        if place is not None and owners[part]:
            key = np.array([VARY | self.seed, (place[0] << 24) | place[1]], np.uint64)
            raw = vary_example(name, index, raw, owners[part], key)
        return prepare_example(name, index, raw, modalities)


def class_names(parts: tuple[tuple[float, str, Source], ...]) -> dict[str, tuple[str, ...]]:
    """Field -> names of its classes, as far as the sources of `DataSet.parts` know them."""
    return {
        field: names for _, _, source in parts[::-1] if isinstance(source, Named) for field, names in source.class_names
    }


def check_classes(name: str, parts: tuple[tuple[float, str, Source], ...], modalities: tuple[Modality, ...]) -> None:
    """Raises UserError where a label has another number of classes than the parts of the data set `name`."""
    known = class_names(parts)
    for modality in modalities:
        names = known.get(modality.name, ())
        if isinstance(modality, Label) and names and not modality.names and len(names) != modality.classes:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise UserError(
                f"Data set {name!r} has {len(names)} classes of {modality.name!r} ({shown}), the model has "
                f"{modality.classes}: set --classes {len(names)}, or Label(classes={len(names)}) in the recipe."
            )


def preparing_threads() -> int:
    """One more than this process's cores, as one thread at a time runs Python and waits for it; at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores + 1, MOST_THREADS)


def _global_order(parts: tuple[tuple[float, str, Sized], ...], seed: int) -> Any:
    """Position -> (part << 40) + place in its list: an infinite Grain dataset that reads nothing."""
    shuffled = [
        grain.MapDataset.range(part << PART_BITS, (part << PART_BITS) + len(source))
        .seed(seed + part)
        .shuffle()
        .repeat()
        for part, (_, _, source) in enumerate(parts)
    ]
    if len(shuffled) == 1:
        return shuffled[0]
    weights = np.asarray([weight for weight, _, _ in parts], np.float64)
    return grain.MapDataset.mix(shuffled, weights=(weights / weights.sum()).tolist())
