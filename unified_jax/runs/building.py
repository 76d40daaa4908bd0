"""Any data set as ArrayRecord files (`data.records`): see `build`.

Records are read by threads and written in their order, so the bytes do not depend on the number of threads. A file
gets its name when it is whole: a process that was killed goes on at the first file that is missing.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.data.base import DataSet, Named, Recorded, Source, open_parts, prepare_example, record_of
from unified_jax.data.cached import described
from unified_jax.data.prefetch import Prefetcher
from unified_jax.data.records import FORMAT, HEAD, UNFINISHED, encode_record, shard_path
from unified_jax.errors import RunError, UserError
from unified_jax.modalities.base import Modality
from unified_jax.runs.directory import read_json, write_json
from unified_jax.runs.folders import make_folder
from unified_jax.runs.shards import locked

SHARD_BYTES = 256 << 20
"""About the bytes of a file."""
PROBED = 16
"""Records whose sizes are looked at."""
OPTIONS = "group_size:1,uncompressed"
"""Of ArrayRecord: any record is read by itself; pictures are compressed already."""

LEFT_OUT = ".skipped.txt"
"""Beside a file: the records that it leaves out, and why."""


@dataclass(frozen=True)
class Order:
    """What is built."""

    folder: Path
    splits: tuple[str, ...]
    fields: tuple[str, ...]
    workers: int = 2
    """Threads that read."""
    shard: int = 0
    """Records of a file; 0: by their size."""
    skip: tuple[Modality, ...] = ()
    """Records that these cannot prepare are left out, and listed in skipped.txt; (): no record is looked at."""


def build(data: DataSet, order: Order, report: Callable[[int], Any] = lambda count: None) -> dict[str, Any]:
    """Writes the records of some splits; returns what records.json says. `report(n)` after n more records.

    Raises UserError for a folder that holds other records, or a record that cannot be read; RunError for a disk that
    refuses. Finished files stay, and the same call goes on.
    """
    sources = {split: _only(open_parts(data, split, order.fields)) for split in order.splits}
    names: dict[str, Any] = {}
    for source in sources.values():
        names |= dict(source.class_names) if isinstance(source, Named) else {}
    head = {
        "format": FORMAT,
        "set": {"name": data.name, "configuration": described(data)},
        "fields": list(order.fields),
        "skip": [described(one) for one in order.skip],
        "names": {field: list(found) for field, found in names.items()},
        "splits": {split: _entry(source, order.shard) for split, source in sources.items()},
    }
    make_folder(order.folder)
    with locked(order.folder):
        _begin(order.folder, head)
        for split, source in sources.items():
            shard = head["splits"][split]["shard"]
            _write(Job(data.name, split, source, order.folder, shard, order.skip), order.workers, report)
            head["splits"][split] |= _counted(order.folder / split, len(source), shard)
        _list_skipped(order.folder)
        write_json(order.folder / HEAD, head)
        (order.folder / UNFINISHED).unlink(missing_ok=True)
    return head


def _list_skipped(folder: Path) -> None:
    """skipped.txt: what the files of all splits leave out, in order."""
    left_out = [path.read_text(encoding="utf-8") for path in sorted(folder.glob(f"*/*{LEFT_OUT}"))]
    if left_out:
        (folder / "skipped.txt").write_text("".join(left_out), encoding="utf-8")


def _only(parts: tuple[tuple[float, str, Source], ...]) -> Source:
    if len(parts) != 1:
        raise UserError(f"A set of one part is built, found {len(parts)}; build the parts of a mixture one by one.")
    return parts[0][2]


def _entry(source: Source, shard: int) -> dict[str, Any]:
    """Number of records, records of a file, and the digest of the source where it has one."""
    count = len(source)
    if not shard:
        size = max(1, int(np.mean([0, *_sizes(source)])))
        shard = 1 << max(0, (SHARD_BYTES // size).bit_length() - 1)
    digest = {"digest": source.digest} if isinstance(source, Recorded) else {}
    if words := getattr(source, "captions_digest", ""):
        digest["captions"] = words
    return {"source": count, "shard": shard, **digest}


def _sizes(source: Source) -> Iterator[int]:
    """Bytes of some records, evenly spaced; one that cannot be read has none, and is named when it is written."""
    for index in sorted({len(source) * k // PROBED for k in range(PROBED)}) if len(source) else ():
        with contextlib.suppress(UserError, RunError, ValueError):
            yield len(encode_record(record_of(source, "", index)))


def _counted(folder: Path, count: int, shard: int) -> dict[str, int]:
    """Numbers of files and of records in them."""
    import grain

    paths = [str(shard_path(folder, i)) for i in range(-(-count // shard))]
    opened: Any = grain.sources.ArrayRecordDataSource(paths) if paths else ()
    return {"files": len(paths), "records": len(opened)}


def _begin(folder: Path, head: dict[str, Any]) -> None:
    """building.json; raises UserError for a folder with other records, or other files."""
    there = [name for name in (HEAD, UNFINISHED) if (folder / name).is_file()]
    strangers = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if strangers and not there:
        raise UserError(f"{str(folder)!r} holds {strangers[0]!r} and no records; name a new folder with --to.")
    for name in there:
        saved = read_json(folder / name) or {}
        for key in ("set", "fields", "skip", "names", "splits"):
            if _comparable(saved.get(key)) != head[key]:
                what = WORDS.get(key, f"other {key}")
                raise UserError(
                    f"{str(folder)!r} holds {what} ({_short(saved.get(key))}; here {_short(head[key])}). Did the "
                    "source change? Build into another folder with --to."
                )
    if HEAD not in there:
        write_json(folder / UNFINISHED, head)


WORDS = {"set": "another data set", "splits": "other records, or splits", "skip": "what another --skip left"}
"""How messages call the parts of records.json."""


def _comparable(value: Any) -> Any:
    """Without what is known only afterwards."""
    if not isinstance(value, dict):
        return value
    return {k: _comparable(v) for k, v in value.items() if k not in ("files", "records")}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 160 else text[:157] + "..."


@dataclass(frozen=True)
class Job:
    """The records of a split."""

    name: str
    split: str
    source: Source
    folder: Path
    shard: int
    skip: tuple[Modality, ...]

    def encoded(self, index: int) -> bytes | str:
        """The bytes of a record, or why it is left out. Raises UserError for one that cannot be read."""
        try:
            record = record_of(self.source, self.name, index)
            if self.skip:
                prepare_example(self.name, index, record, self.skip)
            return encode_record(record)
        except (UserError, RunError, ValueError) as error:
            named = isinstance(error, UserError | RunError)
            found = error if named else UserError(f"Data set {self.name!r}, record {index}: {error}.")
            if self.skip:
                return str(found)
            raise found from None


def _write(job: Job, workers: int, report: Callable[[int], Any]) -> None:
    """The files of a split that are missing."""
    folder = job.folder / job.split
    make_folder(folder)
    for left in folder.glob(".part-*"):
        left.unlink(missing_ok=True)
    for number in range(-(-len(job.source) // job.shard)):
        path, start = shard_path(folder, number), number * job.shard
        stop = min(start + job.shard, len(job.source))
        if path.is_file():
            report(stop - start)
            continue
        _write_file(job, path, range(start, stop), workers, report)


def _write_file(job: Job, path: Path, records: range, workers: int, report: Callable[[int], Any]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    partial = path.with_name(f".part-{path.name}")
    left_out: list[str] = []
    ready: Prefetcher[bytes | str] = Prefetcher(
        lambda i: job.encoded(records[i]) if i < len(records) else b"", 0, workers, 4 * workers
    )
    try:
        writer = ArrayRecordWriter(str(partial), OPTIONS)
        for _ in records:
            made = next(ready)
            if isinstance(made, str):
                left_out.append(made)
            else:
                writer.write(made)
            report(1)
        writer.close()
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        if left_out:
            path.with_suffix(LEFT_OUT).write_text(
                "".join(f"{line}\n" for line in left_out), "utf-8", "backslashreplace"
            )
        os.rename(partial, path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RunError):
            raise
        where = f"{str(path)!r} cannot be written: {error}"
        raise RunError(f"{where}. Finished files stay: the command goes on.") from None
    finally:
        ready.close()
        partial.unlink(missing_ok=True)
