"""Every record of a recipe's data once, and all its faults by kind: `unified-jax data check`."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from unified_jax.data.base import Source, prepare_example, record_of
from unified_jax.data.prefetch import Prefetcher
from unified_jax.errors import RunError, UserError
from unified_jax.modalities.base import Modality
from unified_jax.modalities.reading import File
from unified_jax.modalities.text import Text

SHOWN = 5
"""Names of each kind of fault."""


@dataclass
class Faults:
    """What was found in a part of a data set."""

    records: int = 0
    left_out: int = 0
    """Records whose texts are skipped."""
    kinds: dict[str, list[str]] = field(default_factory=dict)
    """Kind of fault -> names of records or files."""
    copies: dict[str, list[str]] = field(default_factory=dict)
    """Digest of a file's content -> names of files with it."""

    @property
    def count(self) -> int:
        """Records that cannot be used."""
        return sum(map(len, self.kinds.values()))

    def lines(self) -> list[str]:
        """A line for each kind, the most frequent first, and one for files that are there twice."""
        kinds = sorted(self.kinds.items(), key=lambda item: -len(item[1]))
        found = [f"{len(names)} x {kind}: {_some(names)}" for kind, names in kinds]
        same = [names for names in self.copies.values() if len(names) > 1]
        if same:
            shown = "; ".join(" = ".join(names[:3]) for names in same[:SHOWN])
            found.append(f"(no fault: {sum(map(len, same)) - len(same)} files are copies of others: {shown})")
        if self.left_out:
            found.append(f"(no fault: {self.left_out} records are left out, their texts are too long or empty)")
        return found


def check(
    name: str, source: Source, modalities: tuple[Modality, ...], workers: int = 2,
    report: Callable[[int], Any] = lambda count: None,
) -> Faults:  # fmt: skip
    """Reads and prepares every record of a source as training does, in threads; `report(1)` after each."""
    found = Faults()
    ready = Prefetcher(lambda i: _one(name, source, modalities, i), 0, workers, 8 * workers)
    try:
        for index in range(len(source)):
            error, called, digests, skipped = next(ready)
            found.records += 1
            found.left_out += skipped
            if error is not None:
                found.kinds.setdefault(kind_of(error, called), []).append(called or f"record {index}")
            for digest, file in digests:
                found.copies.setdefault(digest, []).append(file)
            report(1)
    finally:
        ready.close()
    return found


def _one(
    name: str, source: Source, modalities: tuple[Modality, ...], index: int
) -> tuple[str | None, str, list[tuple[str, str]], bool]:
    """(what is wrong, the file's name, digests of its files, whether its texts are skipped)."""
    if index >= len(source):
        return None, "", [], False  # the threads read ahead of the last record
    record: dict[str, Any] = {}
    digests: list[tuple[str, str]] = []
    try:
        record = record_of(source, name, index)
        files = {field: value for field, value in record.items() if isinstance(value, File)}
        if any(m.left_out(record[m.name]) for m in modalities if isinstance(m, Text) and m.name in record):
            return None, "", [], True
        for value in files.values():
            content = value.content
            if not content:
                raise UserError(f"Data set {name!r}, record {index} ({value.name}): it is empty.")
            digests.append((hashlib.blake2b(content, digest_size=16).hexdigest(), value.name))
        prepare_example(name, index, record, modalities)
    except (UserError, RunError, ValueError) as error:
        file = next((value.name for value in record.values() if isinstance(value, File)), "")
        return str(error), file or _named(str(error)), digests, False
    return None, "", digests, False


def _named(message: str) -> str:
    """The first name in quotes after the set's; empty without one."""
    quoted = re.findall(r"'([^']+\.[^']+)'", message)
    return quoted[0] if quoted else ""


def kind_of(message: str, called: str) -> str:
    """A message without its record, file and numbers; those of a type, as in uint8, and what was expected stay.

    >>> kind_of("Data set 'photos', record 12 (a.png), field 'image': it has 7 bytes.", "a.png")
    "field 'image': it has N bytes"
    """
    text = re.sub(r"^Data set '[^']*', record \d+( \([^)]*\))?[,:]? ?", "", message)
    if called:
        text = text.replace(repr(called), "it").replace(called, "it")
    wanted, found, text = text.rpartition("found ") if "expected " in text.partition("found ")[0] else ("", "", text)
    return wanted + found + re.sub(r"(?<![a-z])\d+", "N", text).rstrip(".")


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
