"""A folder of features while it is written (`data.cached`): one writer, whole shards, and no other features in it."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.data.cached import RECORD, UNFINISHED, check_same, read_record
from unified_jax.errors import RunError, UserError
from unified_jax.modalities.features import Features
from unified_jax.runs.checksums import find_damage, is_sealed, seal
from unified_jax.runs.directory import write_json
from unified_jax.runs.folders import PARTIAL
from unified_jax.runs.lock import RunLock


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder is this process's. Raises UserError where another one writes it."""
    lock = RunLock(folder)
    try:
        lock.__enter__()
    except UserError as error:
        raise UserError(f"Another process computes features into {str(folder)!r}; wait for it, or stop it.") from error
    try:
        yield
        lock.path.unlink(missing_ok=True)
    finally:
        lock.__exit__()


def begin(folder: Path, ours: dict[str, Any]) -> dict[str, Any]:
    """What cache.json will say; encoding.json says it until then. What was begun and not finished is removed.

    Raises UserError for a folder with other features, or other files.
    """
    there = [name for name in (RECORD, UNFINISHED) if (folder / name).exists()]
    strangers = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if strangers and not there:
        raise UserError(f"{str(folder)!r} holds {strangers[0]!r} and no features; name a new folder with --to.")
    record = ours
    for name in there:
        saved = read_record(str(folder), name)
        for key in ours:
            if key != "splits":
                check_same(str(folder), WORDS.get(key, key), saved.get(key), ours[key])
        both = [split for split in ours["splits"] if split in saved["splits"]]
        for split in both:
            check_same(str(folder), f"split {split!r}", saved["splits"][split], ours["splits"][split])
        if name == RECORD:
            record = ours | {"splits": dict(sorted((saved["splits"] | ours["splits"]).items()))}
            if len(both) == len(ours["splits"]):
                break
    else:
        write_json(folder / UNFINISHED, ours)
    for path in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)
    return record


WORDS = {"set": "data set", "stages": "stage", "sources": "source", "rows": "batch", "shard": "size of shards"}
"""How messages call the parts of cache.json."""


def is_whole(folder: Path, records: int, forms: Mapping[str, Features]) -> bool:
    """Whether a shard is there. Raises RunError naming the file of one that is damaged."""
    if not folder.exists():
        return False
    damage = find_damage(folder) if is_sealed(folder) else "its checksums are missing"
    for name, one in forms.items():
        if damage is None:
            found = np.load(folder / "features" / f"{name}.npy", mmap_mode="r")
            if found.shape != (records, *one.shape) or found.dtype != np.dtype(one.dtype):
                damage = f"{name} is {found.dtype} {list(found.shape)}, expected {records} records"
    if damage is not None:
        raise RunError(
            f"The shard {str(folder)!r} of features is damaged: {damage}. Remove this folder; the same command then "
            "encodes it again."
        )
    return True


def write_shard(folder: Path, target: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a shard, which gets its name when it is whole. Raises RunError where the disk refuses."""
    partial = folder / f"{PARTIAL}{secrets.token_hex(4)}"
    path = partial
    try:
        (partial / "features").mkdir(parents=True)
        for name, value in arrays.items():
            path = partial / "features" / f"{name}.npy"
            with path.open("wb") as file:
                np.save(file, value)
                file.flush()
                os.fsync(file.fileno())
        seal(partial)
        target.parent.mkdir(exist_ok=True)
        os.rename(partial, target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        where = target / path.relative_to(partial)
        raise RunError(
            f"The features {str(where)!r} cannot be written: {error.strerror or error}. Finished shards stay: the same "
            "command goes on."
        ) from error
