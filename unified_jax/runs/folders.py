"""Folders of results. A request's files appear all at once, and never mixed with those of another request.

`new_folder` makes a folder of its own (`sample.py --out`): it is written next to its path and moved there when
complete. The folder of an older request is moved aside, to NAME.1, NAME.2, ...; a repeat of the same request replaces
it. A folder with files that `sample.py` did not write is refused, so no user files are deleted.

`new_files` makes files in a folder that also holds others (the run directory): they are written separately, and replace
those of the previous request at the end.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unified_jax.errors import RunError, UserError

PARTIAL = ".partial-"
"""Name prefix of an incomplete folder; only a killed process leaves one."""
REQUEST = "request.json"
OURS = re.compile(r"sheet\.png|samples\.npz|adm\.npz|request\.json|([\w.-]+)/(\d{6,})\.[a-z0-9]+")
"""What `sample.py` writes, relative to its folder: of a sample the folder and the number."""


def check_folder(out: Path) -> None:
    """Raises UserError, before anything is computed, where `new_folder` could not be made."""
    place = _place(out)
    _refuse_strangers(out, place)
    with contextlib.suppress(FileNotFoundError):
        if _is_fixed(place) and any(place.iterdir()):
            raise UserError(
                f"The output directory {str(out)!r} holds an older request and cannot be moved aside (it is mounted, "
                "or the current directory, or its parent cannot be written); empty it, or name a new one with --out."
            )
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(place)  # its name may be too long where its parent's is not
        staged = _stage(place)
        (staged / REQUEST).write_text("{}", encoding="utf-8")
    except OSError as error:
        raise UserError(f"The output directory {str(out)!r} cannot be written: {error.strerror or error}.") from error
    shutil.rmtree(staged)


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write in that becomes `out` at the end of the block, or vanishes where that fails.

    Raises RunError where somebody put files of their own into `out` in the meantime.
    """
    place = _place(out)
    staged = _stage(place)
    try:
        yield staged
        try:
            _refuse_strangers(out, place)
        except UserError as error:
            raise RunError(str(error)) from error
        if staged.parent == place:
            _move_up(staged, place)
        else:
            _swap(staged, place)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _swap(staged: Path, place: Path) -> None:
    """`staged` to `place`. What is there is empty, or an older request, and gets a name of its own."""
    with contextlib.suppress(FileNotFoundError):
        if any(place.iterdir()):
            aside = next(p for i in range(1, 1 << 30) if not (p := place.with_name(f"{place.name}.{i}")).exists())
            os.rename(place, aside)
            try:
                os.rename(staged, place)
            except OSError:
                os.rename(aside, place)
                raise
            if _request(aside) == _request(place) and not _strangers(aside, hidden=True):
                shutil.rmtree(aside)  # the same samples once more
            return
    os.rename(staged, place)


def _place(out: Path) -> Path:
    """Where `out` really lies: a link is followed, so that what it names is replaced, not the link."""
    return Path(os.path.realpath(out))


def _is_fixed(place: Path) -> bool:
    """Whether a folder cannot be replaced as a whole: it is written inside, where it must be empty."""
    if not os.path.isdir(place):
        return False
    here = place in (cwd := Path(os.getcwd()), *cwd.parents)
    return here or os.path.ismount(place) or not os.access(place.parent, os.W_OK | os.X_OK)


def _stage(place: Path) -> Path:
    staged = (place if _is_fixed(place) else place.parent) / f"{PARTIAL}{secrets.token_hex(4)}"
    staged.mkdir(parents=True)
    return staged


def _refuse_strangers(out: Path, place: Path) -> None:
    if os.path.lexists(place) and not os.path.isdir(place):
        raise UserError(f"The output directory {str(out)!r} cannot be written: it is a file.")
    if found := _strangers(place):
        raise UserError(
            f"The output directory {str(out)!r} holds {found!r}, which `unified-jax sample` did not write there; name "
            "a new one with --out."
        )


def _strangers(place: Path, hidden: bool = False) -> str:
    """A file in `place` that no request of ours wrote; "" where there is none. Hidden ones count if `hidden`."""
    request = _request(place)
    for folder, below, names in os.walk(place):
        below[:] = [name for name in below if hidden or not name.startswith(".")]
        links = [name for name in below if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*names, *links]):
            path = os.path.normpath(os.path.join(os.path.relpath(folder, place), name))
            if not _is_ours(path, request) and (hidden or not name.startswith(".")):
                return path
    return ""


def _is_ours(path: str, request: dict[str, Any] | None) -> bool:
    match = OURS.fullmatch(path)
    if request is None or not match:
        return False
    if not match[1] or "folders" not in request:  # requests once mixed in one folder, and did not say which
        return True
    first = request.get("first", 0)
    return match[1] in request["folders"] and first <= int(match[2]) < first + request["count"]


def _request(folder: Path) -> dict[str, Any] | None:
    """request.json, or None where there is none that is ours."""
    try:
        found = json.loads((folder / REQUEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or "plan" not in found:
        return None
    told = isinstance(found.get("folders"), list) and isinstance(found.get("count"), int)
    return found if told or "folders" not in found else None


def _move_up(staged: Path, folder: Path, last: str = REQUEST) -> None:
    """Everything in `staged` to `folder`, the file that describes it last."""
    for path in sorted(staged.iterdir(), key=lambda path: (path.name == last, path.name)):
        os.replace(path, folder / path.name)


@contextlib.contextmanager
def new_files(folder: Path, older: Iterable[str], last: str = "") -> Iterator[Path]:
    """A folder to write files in that move to `folder` at the end of the block, `last` after the others.

    `older` names those that the request before may have left: the ones that are not written again are removed.
    """
    staged = folder / f"{PARTIAL}{secrets.token_hex(4)}"
    staged.mkdir()
    try:
        yield staged
        for name in set(older) - {path.name for path in staged.iterdir()}:
            (folder / name).unlink(missing_ok=True)
        _move_up(staged, folder, last)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def make_folder(out: Path) -> None:
    """Makes a folder that holds other files too. Raises UserError where it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f"{PARTIAL}{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"The output directory {str(out)!r} cannot be written: {error.strerror or error}.") from error
