"""Errors of checkpoints by cause: only a checkpoint with invalid contents is set aside.

UserError   it is damaged, holds numbers that are not finite, or belongs to another model: an earlier one may be used
RunError    it could not be read (rights, a disk, memory): its contents may be valid, and no earlier one is used
"""

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from unified_jax.errors import RunError, UserError
from unified_jax.runs.checksums import find_damage, is_sealed
from unified_jax.runs.finite import told

RIGHTS = (errno.EACCES, errno.EPERM)
OUTSIDE = (
    *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT, errno.ENOSPC, errno.EDQUOT),
    *(errno.EROFS, errno.ENODEV, errno.ENOTCONN, errno.EBUSY, errno.EHOSTDOWN, errno.EHOSTUNREACH),
)
"""Errors of a disk or a machine, independent of the file."""

AGAIN = "start a new run in another --run-dir with a lower --optimizer.learning-rate or with --optimizer.clip-norm"
"""Advice for numbers that are not finite: the same settings would give the same result."""


class Damaged(Exception):
    """The files differ from those written: part of a sentence."""


class NotFinite(Exception):
    """The names of arrays with numbers that are not finite."""


def check_path(folder: Path) -> None:
    """Raises UserError for a path that the checkpoint libraries cannot represent."""
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The path {str(folder)!r} holds letters that are not text in this locale; start Python in UTF-8 "
            "(PYTHONUTF8=1, or LC_ALL=C.UTF-8), or choose a path of ASCII letters. The checkpoints are as they were."
        ) from error


def check_files(folder: Path, earlier: str) -> None:
    """Raises UserError if files differ from those written, RunError if they cannot be read."""
    try:
        damage = find_damage(folder)
    except OSError as error:
        raise explain(error, folder, earlier) from error
    if damage:
        raise explain(Damaged(damage + "."), folder, earlier)


def check_arrays(wanted: Any, found: Any, bad: list[str], folder: Path, earlier: str) -> None:
    """Raises UserError for another shape, and for the names in `bad`, whose numbers are not finite."""
    for (path, want), (_, got) in zip(
        jax.tree_util.tree_leaves_with_path(wanted), jax.tree_util.tree_leaves_with_path(found), strict=True
    ):
        if want.shape != got.shape:
            name = jax.tree_util.keystr(path)
            raise explain(ValueError(f"{name} has shape {got.shape}, expected {want.shape}."), folder, earlier)
    if bad:
        raise explain(NotFinite(told(bad)), folder, earlier)


def explain(error: Exception, folder: Path, earlier: str) -> UserError | RunError:
    """The message for a checkpoint that was not restored; `earlier` names another one."""
    reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    what = f"The checkpoint {folder} cannot be read: {reason}"
    if isinstance(error, NotFinite):
        return UserError(
            f"The checkpoint {folder} cannot be used: {reason} hold(s) numbers that are not finite; "
            + (earlier or f"no other checkpoint is kept: {AGAIN}")
            + "."
        )
    outside = _outside(error)
    if outside is not None:
        return RunError(f"The checkpoint {folder} cannot be read: {outside}. Nothing speaks against the checkpoint.")
    if isinstance(error, Damaged):
        return UserError(f"{what} It is damaged; {earlier or 'no other checkpoint is kept'}.")
    if _sealed(folder):
        return UserError(
            f"{what} Its files are as they were written, so it belongs to another model or was written by another "
            "version of this package or of Orbax; keep it."
        )
    earlier = earlier or "no other checkpoint is kept"
    return UserError(f"{what} It is damaged or was written for another model; {earlier}.")


def best_loss(folder: Path, of: str = "") -> float:
    """The loss that a best checkpoint was saved with; NaN, which nothing is below, if it cannot be read.

    Or if it is of another measurement than `of`; those of earlier versions do not say.
    """
    try:
        found = json.loads((folder / "loss" / "metadata").read_bytes())
        return float(found["loss"]) if of in ("", found.get("of") or of) else float("nan")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return float("nan")


def set_aside(folder: Path, target: Path) -> None:
    """Moves a step to `target`, or next to an existing one. Raises RunError if that fails."""
    try:
        target.parent.mkdir(exist_ok=True)
        while target.exists():
            target = target.with_name(target.name + "_")
        folder.rename(target)
    except OSError as error:
        raise RunError(f"The damaged checkpoint {folder} cannot be moved to {target}: {error}.") from error


def _outside(error: Exception) -> str | None:
    """Why the files could not be read, and what to do; None if that does not explain the failure."""
    for one in _chain(error):
        number = one.errno if isinstance(one, OSError) else None
        text = str(one)
        if number in RIGHTS or "PERMISSION_DENIED" in text:
            where = f" ({one.filename})" if isinstance(one, OSError) and one.filename else ""
            return f"permission denied{where}; give this user the right to read it (chmod, chown) and start again"
        if number in OUTSIDE:
            return f"{text}; start the same command again when the disk answers"
        if isinstance(one, MemoryError) or "RESOURCE_EXHAUSTED" in text or number == errno.ENOMEM:
            return f"there is not enough memory ({text.splitlines()[0][:200] if text else 'MemoryError'})"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _sealed(folder: Path) -> bool:
    try:
        return is_sealed(folder)
    except OSError:
        return False
