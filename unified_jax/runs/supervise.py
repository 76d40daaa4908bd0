"""A small parent process that keeps the log of one of several processes and reports why it ended.

JAX ends a process from inside its runtime when another one of the run dies: no Python code runs then. So a process
of several is started as a child of this parent, which uses no device and

- copies the child's output to the terminal and to RUN/logs/process_INDEX.log,
- passes SIGTERM and Ctrl-C on to it as SIGTERM, and kills it at the second one,
- reports in a sentence why the runtime or the system ended it, and exits with 1.

If the parent is killed, the child ends too: it reads a pipe whose other end the parent holds.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from unified_jax.errors import UserError

PIPE = "UNIFIED_JAX_PARENT"
"""Environment variable of a child: the descriptor of the pipe."""
LOG = "UNIFIED_JAX_LOG"
"""Environment variable of a child: its log, which it names after its index once it knows it."""


def is_child() -> bool:
    """Whether this process has such a parent."""
    return PIPE in os.environ


def supervise(run_dir: Path | None) -> int:
    """Runs this very command again as a child and returns its exit code. Raises UserError if no log can be created."""
    log = run_dir / "logs" / f"starting_{os.uname().nodename}_{os.getpid()}.log" if run_dir else None
    if log:
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.touch()
        except OSError as error:
            raise UserError(f"The run directory {str(run_dir)!r} cannot be written: {error.strerror}.") from error
    ours, theirs = os.pipe()
    environment = os.environ | {PIPE: str(ours)} | ({LOG: str(log.absolute())} if log else {})
    command = [sys.executable, "-u", *_this_command()]
    with log.open("ab") if log else contextlib.nullcontext() as file:
        child = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(ours,),
            start_new_session=True,
        )  # fmt: skip
        os.close(ours)
        _pass_on(child)
        copies = [
            threading.Thread(target=_copy, args=(stream, target, file), daemon=True)
            for stream, target in ((child.stdout, sys.stdout.buffer), (child.stderr, sys.stderr.buffer))
        ]
        for copy in copies:
            copy.start()
        code = child.wait()
        for copy in copies:
            copy.join(timeout=5)
        os.close(theirs)
        if code not in (0, 1, 2):
            joined = log is None or not log.exists()  # it gets its name after the processes have joined
            code = _last_word(code, run_dir, file, joined)
    return code


def begin_child() -> None:
    """In a child: ends it as soon as its parent is gone."""

    def wait() -> None:
        while os.read(int(os.environ[PIPE]), 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def name_log(index: int) -> None:
    """In a child: gives its log the name of its process; the one of an earlier start is kept as `.old`."""
    if LOG not in os.environ:
        return
    log = Path(os.environ[LOG])
    named = log.with_name(f"process_{index:03d}.log")
    with contextlib.suppress(OSError):
        if named.exists():
            named.replace(named.with_suffix(".log.old"))
        log.replace(named)


def _this_command() -> list[str]:
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", module.name, *sys.argv[1:]] if module else sys.argv


def _pass_on(child: "subprocess.Popen[bytes]") -> None:
    first: list[float] = []

    def receive(number: int, frame: FrameType | None) -> None:
        del number, frame
        if first and time.monotonic() - first[0] > 1:  # asked twice: it may hang
            child.kill()
        else:
            first.append(time.monotonic())
            child.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, receive)


def _copy(stream: Any, target: Any, file: Any) -> None:
    while piece := stream.read1(1 << 16):
        for sink in filter(None, (target, file)):
            with contextlib.suppress(OSError):  # a full disk or a closed terminal is not a reason to stop the child
                sink.write(piece)
                sink.flush()


def _last_word(code: int, run_dir: Path | None, file: Any, joined: bool) -> int:
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    rolling = run_dir / "checkpoints" / "rolling" if run_dir else None
    steps = [int(p.name) for p in rolling.iterdir() if p.name.isdigit()] if rolling and rolling.is_dir() else []
    saved = f"The last checkpoint is step {max(steps)}." if steps else "There is no checkpoint yet."
    what = {
        "SIGABRT": "JAX's runtime ended this process, as it does when another process of the run has died",
        "SIGKILL": "the system killed this process, as it does when memory runs out",
    }.get(how, "this process ended")
    if how == "SIGABRT" and not joined:
        what = "The processes of the run did not find each other in time (--hosts.join-timeout)"
    sentence = f"error: {what} ({how}). {saved} Start all processes again with the same command.\n".encode()
    sys.stdout.flush()
    for sink in filter(None, (sys.stderr.buffer, file)):
        with contextlib.suppress(OSError):
            sink.write(sentence)
            sink.flush()
    return 1
