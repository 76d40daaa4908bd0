"""One run per directory: a lock that the kernel holds while the process lives.

`flock` on RUN/.lock is released by the kernel when the process ends, however it ends; so there is no stale lock to
remove after a kill -9. The file stays behind, and what is written in it (process and host) only serves the message.
Reading a run (sample, evaluate, --replay) takes no lock.
"""

import contextlib
import os
import socket
from pathlib import Path

from unified_jax.errors import UserError


class RunLock:
    """Held in a `with` block by the process that trains in `run_dir`."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.path = run_dir, run_dir / ".lock"

    def __enter__(self) -> "RunLock":
        """Raises UserError where another process trains in the directory, or the lock file cannot be made."""
        try:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"The run directory {str(self.run_dir)!r} cannot be written: {error.strerror or error}."
            ) from error
        if not _lock(self.descriptor):
            owner = os.read(self.descriptor, 200).decode(errors="replace").strip()
            os.close(self.descriptor)
            raise UserError(
                f"Another run is training in {str(self.run_dir)!r}{f' ({owner})' if owner else ''}; wait for it, stop "
                "it, or choose another --run-dir."
            )
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only the message will be shorter
            os.ftruncate(self.descriptor, 0)
            os.write(self.descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


def _lock(descriptor: int) -> bool:
    """False where somebody else holds it; True where it was taken, or the system knows no such locks."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
