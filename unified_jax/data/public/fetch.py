"""Original files: on this machine, or over the network with resumption, checked by size and SHA-256.

What has arrived stands in FILE.part; an interrupted download goes on from there. FILE appears when it is complete.
"""

import hashlib
import http.client
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified_jax.data.public.base import Original, PublicSet
from unified_jax.errors import RunError, UserError

CHUNK = 1 << 18
SECONDS = 60.0
"""How long a silent server is waited for."""
ATTEMPTS = 5
"""Connections for one file, as long as each brings something."""

Report = Callable[[str, int, int], Any]
"""Called with a file's name, the bytes that are there and all its bytes (0: not known)."""


@dataclass(frozen=True)
class Fetched:
    """An original on this machine."""

    path: Path
    address: str
    """Where it came from."""
    sha256: str
    size: int
    verified: bool
    """Its checksum is the published one."""


class _Cut(Exception):
    """A connection ended early."""


def fetch(one: PublicSet, folder: Path, source: str, unverified: bool, report: Report) -> dict[str, Fetched]:
    """The originals of a set by their names; what comes over the network is kept in `folder`.

    `source` replaces the published addresses: a folder, a file, or an address of either. `unverified` accepts files
    with another checksum. Raises UserError for a file that is missing or is not the published one, RunError if one
    cannot be fetched.
    """
    places = places_of(one, source)
    return {original.file: _fetch(original, at, folder, unverified, report) for original, at in places.items()}


def places_of(one: PublicSet, source: str) -> dict[Original, Path | str]:
    """Where each original is. Raises UserError for a file of this machine that is missing."""
    places = {original: place(original, source, alone=len(one.originals) == 1) for original in one.originals}
    missing = [str(at) for at in places.values() if isinstance(at, Path) and not at.is_file()]
    if missing:
        raise UserError(
            f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} missing; --source must name a folder or an "
            f"address that holds {_listed([original.file for original in one.originals])}."
        )
    return places


def place(original: Original, source: str, alone: bool) -> Path | str:
    """Where an original is: a path of this machine, or an address."""
    parts = urllib.parse.urlsplit(source or original.address)
    if parts.scheme in ("http", "https"):
        if not source:
            return original.address
        named = alone and parts.path.rpartition("/")[2] == original.file
        return source if named else f"{source.rstrip('/')}/{original.file}"
    if parts.scheme == "file":
        path = Path(urllib.request.url2pathname(parts.path))
    elif parts.scheme and "://" in source:
        raise UserError(f"--source {source!r} must be a folder, or an address that begins with file, http or https.")
    else:
        path = Path(source).expanduser()
    return path if (alone or not source) and path.is_file() else path / original.file


def _fetch(original: Original, at: Path | str, folder: Path, unverified: bool, report: Report) -> Fetched:
    if isinstance(at, Path):
        found = _checked(original, at, str(at.absolute()))
        if not (found.verified or unverified or not original.sha256):
            raise UserError(_differs(original, found, "use the published file"))
        return found
    target = folder / original.file
    if target.exists():
        found = _checked(original, target, at)
        if not (found.verified or unverified or not original.sha256):
            raise UserError(_differs(original, found, "remove it and run the command again"))
        return found
    _download(at, target, original.size, lambda done, size: report(original.file, done, size))
    found = _checked(original, target, at)
    if not (found.verified or unverified or not original.sha256):
        wrong = target.replace(target.with_name(target.name + ".wrong"))
        raise RunError(_differs(original, found, f"it is kept as {wrong.name}; fetch it again or elsewhere (--source)"))
    return found


def _checked(original: Original, path: Path, address: str) -> Fetched:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from None
    return Fetched(path, address, digest, size, digest == original.sha256)


def _differs(original: Original, found: Fetched, advice: str) -> str:
    why = f"has the SHA-256 {found.sha256}, expected {original.sha256}"
    if original.size and found.size != original.size:
        why = f"has {found.size} bytes, expected {original.size}"
    return f"{str(found.path)!r} {why}; {advice}, or pass --unverified to build from it all the same."


def _download(address: str, target: Path, size: int, report: Callable[[int, int], Any]) -> None:
    """Fetches a file, going on from what is there. Raises RunError where that fails; what has arrived is kept."""
    part = target.with_name(target.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{str(part.parent)!r} cannot be made: {error.strerror or error}.") from None
    for attempt in range(ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        try:
            _pull(address, part, size, report)
            part.replace(target)
            return
        except _Cut as cut:
            if part.stat().st_size <= before or attempt == ATTEMPTS - 1:
                raise RunError(f"{address} {cut}; run the command again: it goes on from {str(part)!r}.") from None


def _pull(address: str, part: Path, size: int, report: Callable[[int, int], Any]) -> None:
    """One connection. Raises _Cut if it ended early."""
    have = part.stat().st_size if part.exists() else 0
    answer = _open(address, have, part.stem)
    if answer is None:  # the server has nothing after these bytes: they are all, or of another file
        if have == size:
            return
        part.unlink()
        have, answer = 0, _open(address, 0, part.stem)
    with answer:
        begins = have if answer.status == 206 and _begin(answer) == have else 0
        length = answer.headers.get("Content-Length", "")
        whole = begins + int(length) if length.isdigit() else size
        complete = 0 if answer.chunked else whole  # a chunked answer has an end of its own
        _need(part.parent, whole - begins)
        with _opened(part, begins) as file:
            done = begins
            report(done, whole)
            while block := _block(answer, done, whole):
                _write(file, block, part)
                done += len(block)
                report(done, whole)
    if done < complete:
        raise _Cut(f"ended after {done:,} of {whole:,} bytes")


def _open(address: str, have: int, name: str) -> Any:
    """The answer; None if the server says that there is nothing from byte `have` on."""
    headers = {"User-Agent": "unified-jax"} | ({"Range": f"bytes={have}-"} if have else {})
    elsewhere = f"fetch it on a machine that can, keep it as FOLDER/{name} and pass --source FOLDER"
    try:
        return urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            return None
        raise RunError(f"{address} answers {error.code} ({error.reason}); {elsewhere}.") from None
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise RunError(f"{address} cannot be reached ({getattr(error, 'reason', error)}); {elsewhere}.") from None


def _begin(answer: Any) -> int:
    """The first byte of a part of a file; -1 if the answer does not say."""
    begin = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(begin) if begin.isdigit() else -1


def _block(answer: Any, done: int, whole: int) -> bytes:
    try:
        return answer.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        of = f" of {whole:,}" if whole else ""
        raise _Cut(f"broke off after {done:,}{of} bytes ({error})") from None


def _need(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise RunError(
            f"{str(folder)!r} has {free:,} bytes free, {size:,} are needed; free some or choose another --data-dir."
        )


def _opened(part: Path, begins: int) -> Any:
    try:
        file = part.open("r+b" if begins else "wb", buffering=0)  # a full disk shows at once
        file.seek(begins)
        return file
    except OSError as error:
        raise RunError(f"{str(part)!r} cannot be written: {error.strerror or error}.") from None


def _write(file: Any, block: bytes, part: Path) -> None:
    try:
        left = memoryview(block)
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise RunError(
            f"{str(part)!r} cannot be written: {error.strerror or error}; what has arrived is kept, and the same "
            "command goes on from there."
        ) from None


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
