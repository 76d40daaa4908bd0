"""Start and end of commands: the compilation cache, and errors as one sentence with an exit code.

Exit codes: 0 done, 2 the user's mistake (one sentence, no traceback), 1 the run failed.
"""

import errno
import inspect
import io
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from unified_jax.errors import RunError, UserError
from unified_jax.runs.supervise import begin_child, is_child, name_log, supervise
from unified_jax.runs.xla_flags import use_cublas

if TYPE_CHECKING:
    from unified_jax.hosts import Hosts


def run_command(command: Callable[[list[str]], None], arguments: list[str]) -> int:
    """Runs a command and returns its exit code; UNIFIED_JAX_TRACEBACK=1 shows tracebacks of expected errors too."""
    use_cublas()
    for stream in (sys.stdout, sys.stderr):  # a name outside the locale must not end the command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for library in ("absl", "asyncio"):  # Orbax and TFDS log their own defaults, and errors that are reported below
        logging.getLogger(library).setLevel(logging.CRITICAL)
    if os.environ.get("UNIFIED_JAX_TRACEBACK"):
        command(arguments)
        return 0
    sys.unraisablehook = _unraisable
    code = _run(command, arguments)
    if code and is_child():  # a regular exit would wait for the other processes, which wait for this one
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(command: Callable[[list[str]], None], arguments: list[str]) -> int:
    try:
        command(arguments)
        sys.stdout.flush()
    except UserError as error:
        return _complain(str(error), 2)
    except RunError as error:
        return _complain(str(error), 1)
    except BrokenPipeError:  # the reader of the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if (said := _of_system(error)) is None:
            raise
        return _complain(said, 1)
    except MemoryError as error:
        return _complain(f"The memory of this machine does not suffice: {str(error) or 'it ran out'}.", 1)
    except KeyboardInterrupt:
        return _complain("Interrupted.", 1)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            why = str(error).split("\n")[0][:300]
            return _complain(f"The device's memory does not suffice; try a smaller batch or model ({why}).", 1)
        if not is_child():
            raise
        traceback.print_exc()
        lost = type(error).__name__ == "JaxRuntimeError"
        return _complain("Most likely another process of the run has ended: see its log." if lost else str(error), 1)
    return 0


def _of_system(error: OSError) -> str | None:
    """The system's refusal as a sentence; None if it is not about a file or the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        what = error.filename or "A file of the run"
        return f"{what} cannot be written: {error.strerror}; what was saved before is intact."
    if error.errno in (errno.EACCES, errno.EPERM) or error.filename is not None:
        return f"{error.filename or 'A file'} cannot be used: {error.strerror}; what was saved before is intact."
    return None


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Python's own report, without the echoes of a failed save.

    When one file of a checkpoint fails, Orbax drops its event loop and its coroutines while TensorStore's threads still
    report to them; each of them ends here, dozens per save. The checkpoints report the failure itself.
    """
    coroutine = unraisable.object if inspect.iscoroutine(unraisable.object) else None
    orbax = coroutine is not None and "orbax" in coroutine.cr_code.co_filename
    if not orbax and str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _complain(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    return code


def start_process(hosts: "Hosts", run_dir: Path | None = None) -> None:
    """Joins the other processes of a run, under a supervisor (`runs.supervise`); nothing for a single process.

    With a run directory, logs go there and SIGTERM is left to the loop (`training.loop`); without one it ends the
    process.

    Raises UserError if they do not all join. In the supervisor it does not return.
    """
    if not hosts.coordinator:
        return
    if not is_child():
        code = supervise(run_dir)
        sys.stdout.flush()
        os._exit(code)  # processes that still hold the child's output are not waited for
    begin_child()
    import jax

    from unified_jax.hosts import join

    join(hosts)
    name_log(jax.process_index())
    if run_dir is None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def use_fake_devices(count: int) -> None:
    """Splits the CPU into `count` devices; 0 keeps the real devices. To be called before JAX opens its devices.

    A collective holds a thread of XLA's CPU client until all its devices have joined it, and XLA gives a device one
    thread. Independent collectives may start in another order on each device; then all threads are blocked, and XLA
    aborts the process after 40 s. Hence sixteen threads per device, unless PJRT_NPROC is set.
    """
    if not count:
        return
    os.environ.setdefault("PJRT_NPROC", str(16 * count))
    import jax

    jax.config.update("jax_num_cpu_devices", count)


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, one folder per jaxlib version.

    JAX_COMPILATION_CACHE_DIR moves it; set to nothing it turns it off.
    """
    import jax
    import jaxlib.version

    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen == "":
        return
    try:
        base = "" if chosen else os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a container's user without a name and without HOME
        return
    folder = Path(chosen) if chosen else Path(base) / "unified_jax" / f"jaxlib-{jaxlib.version.__version__}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        jax.config.update("jax_compilation_cache_dir", None)  # JAX reads the variable too, and would warn ever again
        if chosen:
            print(f"Compiled programs are not kept: {folder}: {error.strerror or error}.", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
