"""A data set with features that were computed once: the outputs of frozen encoders, beside the record they belong to.

    DIR/cache.json                             what it holds, and of which data set and stages; written last
    DIR/SPLIT-PART/SHARD/features/FIELD.npy    the features of `shard` records, in their order
    DIR/SPLIT-PART/SHARD/checksums.json

`unified-jax data encode` writes it (`runs.encode`). Shards are mapped into memory, so that a record costs the reading
of its own bytes. Another data set is refused here, another stage where the training starts (`runs.features`).
"""

import dataclasses
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np

from unified_jax.config import Open, class_path, fields_of, to_plain
from unified_jax.data.base import DataSet, Source
from unified_jax.errors import RunError, UserError

RECORD = "cache.json"
UNFINISHED = "encoding.json"
"""In place of `RECORD` while features are computed."""
MAPPED = 256
"""Most files that are mapped at a time."""


def examples_of(data: Any) -> Any:
    """The data set whose examples these are: the one that features were computed of, or itself."""
    return data.data if isinstance(data, CachedFeatures) else data


@dataclass(frozen=True)
class CachedFeatures:
    """The records of a data set with the features that a folder holds of them."""

    data: Open[DataSet]
    """The data set."""
    folder: str
    """Where `unified-jax data encode` writes the features."""
    copies: int = 1
    """Encodings of each record (flips would be a second one); reserved, 1."""
    places: ClassVar[tuple[str, ...]] = ("folder",)
    """See `data.base.DataSet`."""

    def __post_init__(self) -> None:
        if not self.folder:
            raise ValueError("CachedFeatures needs the folder of its features.")
        if self.copies != 1:
            raise ValueError(
                f"CachedFeatures holds one encoding of each record, found copies={self.copies}; mirrored copies are "
                "not written yet."
            )

    @property
    def name(self) -> str:
        """The name of the data set."""
        return self.data.name

    def parts(self, split: str, fields: tuple[str, ...]) -> tuple[tuple[float, str, Source], ...]:
        """The parts of the data set, each with its features. UserError for a folder that does not fit."""
        folder, record = Path(self.folder).expanduser(), read_record(self.folder)
        own = tuple(name for name in fields if name in record["fields"])
        others = tuple(name for name in fields if name not in own)
        if unknown := [name for name in others if name.count(".") > 1]:
            there = ", ".join(record["fields"])
            raise UserError(f"The features in {self.folder!r} lack {unknown[0]}; they are {there}. {AGAIN}")
        check_same(self.folder, "data set", record["set"]["configuration"], described(self.data))
        entries = record["splits"].get(split)
        if entries is None:
            raise UserError(
                f"{self.folder!r} holds features of the splits {', '.join(record['splits'])}, not of {split!r}; encode "
                f"it: unified-jax data encode RECIPE --to {self.folder} --splits {split}."
            )
        inner = self.data.parts(split, others)
        check_counts(self.folder, split, entries, self.data.parts(split, tuple(record["sources"])))
        kinds = tuple((name, tuple(record["fields"][name]["shape"]), record["fields"][name]["dtype"]) for name in own)
        return tuple(
            (weight, name, CachedSource(source, part_folder(folder, split, i), entry["count"], record["shard"], kinds))
            for i, (entry, (weight, name, source)) in enumerate(zip(entries, inner, strict=True))
        )


AGAIN = "Encode again into another folder: unified-jax data encode RECIPE --to DIR."


@dataclass(frozen=True)
class CachedSource:
    """The records of a part, from the first one on, with their features."""

    source: Source
    folder: Path
    count: int
    shard: int
    """Records of a shard."""
    kinds: tuple[tuple[str, tuple[int, ...], str], ...]
    """Name, shape and dtype of each feature."""

    def __post_init__(self) -> None:
        for shard in range(-(-self.count // self.shard)):
            for name, shape, dtype in self.kinds:
                path = shard_file(self.folder, shard, name)
                size = self.rows(shard) * np.dtype(dtype).itemsize * int(np.prod(shape))
                if not path.is_file() or path.stat().st_size < size:
                    state = "is cut off" if path.is_file() else "is missing"
                    raise UserError(
                        f"The features {str(path)!r}: the file {state}. Remove the folder of this shard and "
                        f"{RECORD}, and encode again; the other shards stay."
                    )

    @property
    def light(self) -> bool:
        """See `texts.Light`."""
        return getattr(self.source, "light", False)

    def rows(self, shard: int) -> int:
        """Records of one shard."""
        return min(self.shard, self.count - shard * self.shard)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record `index`. IndexError outside; RunError for a file that cannot be read."""
        if not 0 <= index < self.count:
            raise IndexError(f"{str(self.folder)!r} has features of {self.count} records; found the index {index}.")
        shard, row = divmod(index, self.shard)
        found = dict(self.source[index])
        for name, shape, dtype in self.kinds:
            found[name] = np.array(
                _mapped(shard_file(self.folder, shard, name), (self.rows(shard), *shape), dtype)[row]
            )
        return found


def part_folder(folder: Path, split: str, part: int) -> Path:
    """The folder of the shards of one part of a split."""
    return folder / f"{quote(split, safe='')}-{part}"


def shard_file(folder: Path, shard: int, name: str) -> Path:
    """The file of one field of a shard."""
    return folder / f"{shard:06d}" / "features" / f"{name}.npy"


@lru_cache(maxsize=MAPPED)
def _mapped(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"The features {str(path)!r} cannot be read: {error}") from None
    if found.shape != shape or found.dtype != np.dtype(dtype):
        raise RunError(
            f"The features {str(path)!r} are {found.dtype} {list(found.shape)}, expected {dtype} {list(shape)}."
        )
    return found


def read_record(folder: str, name: str = RECORD) -> dict[str, Any]:
    """What a folder of features says of itself. Raises UserError where there are none, or they are not finished."""
    path = Path(folder).expanduser() / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not {"set", "splits", "fields", "stages", "sources", "shard"} <= set(found):
            raise ValueError("it does not describe features")
        return found
    except FileNotFoundError:
        begun = path.with_name(UNFINISHED).is_file()
        state = "are not finished" if begun else "are not there"
        then = "the same command goes on" if begun else "write them"
        raise UserError(
            f"The features in {folder!r} {state}: {then} with unified-jax data encode RECIPE --to {folder}."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} cannot be read: {error}. {AGAIN}") from None


def described(value: Any) -> Any:
    """A configuration as JSON, without fields at their defaults and those that only locate things (`places`)."""
    if isinstance(value, tuple):
        return [described(item) for item in value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return to_plain(value)
    places, found = getattr(type(value), "places", ()), {}
    for field in fields_of(value):
        there, default = getattr(value, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.name not in places and not (type(there) is type(default) and there == default):
            found[field.name] = described(there)
    return {"class": class_path(type(value)), **found}


def check_same(folder: str, what: str, saved: Any, ours: Any) -> None:
    """Raises UserError naming how a configuration differs from the one whose features a folder holds."""
    if lines := list(_unlike(saved, ours, "")):
        raise UserError(f"The features in {folder!r} are of another {what}: {'; '.join(lines[:4])}. {AGAIN}")


def _unlike(saved: Any, ours: Any, path: str) -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(ours, dict) and saved.get("class") == ours.get("class"):
        for name in sorted(set(saved) | set(ours)):
            yield from _unlike(saved.get(name, "default"), ours.get(name, "default"), f"{path}.{name}".lstrip("."))
    elif isinstance(saved, list) and isinstance(ours, list) and len(saved) == len(ours):
        for i, (one, other) in enumerate(zip(saved, ours, strict=True)):
            yield from _unlike(one, other, f"{path}.{i}".lstrip("."))
    elif saved != ours:
        yield f"{path or 'it'} ({_short(saved)} there, {_short(ours)} here)".removeprefix("it ")


def _short(value: Any) -> str:
    text = str(value.get("class", value) if isinstance(value, dict) else value).rpartition("unified_jax.")[2]
    return text if len(text) <= 60 else text[:57] + "..."


def counts(parts: tuple[tuple[float, str, Source], ...], limit: int = 0) -> list[dict[str, Any]]:
    """The entry of a split: name, records, encoded records and a checksum of the first record of each part."""
    return [
        {"name": n, "records": len(s), "count": min(len(s), limit or len(s)), "first": first_record(s)}
        for _, n, s in parts
    ]


def first_record(source: Source) -> int | None:
    """CRC32 of the texts and whole numbers of a source's first record; None without any.

    Pictures and floats are left out: another machine may round one that is computed.
    """
    found = []
    for _, value in sorted(source[0].items()) if len(source) else ():
        if isinstance(value, str):
            found.append(value.encode())
        elif (array := np.asarray(value)).dtype.kind in "iub" and array.ndim < 2:
            found.append(array.tobytes())
    return zlib.crc32(b"\0".join(found)) if found else None


def check_counts(folder: str, split: str, saved: list[dict[str, Any]], parts: Any) -> None:
    """Raises UserError where a split has other records than those whose features a folder holds."""
    here, keys = counts(parts), ("name", "records")
    told = [", ".join(f"{e['records']} records of {e['name']}" for e in rows) for rows in (saved, here)]
    if [[e[key] for key in keys] for e in saved] != [[e[key] for key in keys] for e in here]:
        raise UserError(f"The features in {folder!r}, split {split!r}, are of {told[0]}; the data set has {told[1]}.")
    for entry, other in zip(saved, here, strict=True):
        if entry["first"] != other["first"]:
            raise UserError(
                f"The features in {folder!r}, split {split!r}, are of other records of {entry['name']}: the first one "
                f"differs. {AGAIN}"
            )
