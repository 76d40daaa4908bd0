"""Several processes as one run: joining, writing, agreement, and stopping at the same step.

Every process runs the same program. It prepares its rows of each batch, holds its devices' parts of the state, and
writes its parts of a checkpoint; only process 0 writes everything else. With one process this module does nothing.

A failure of a single process (its disk, its flags) is sent to the others (`together`), so that all exit with that
message. JAX's coordination service forwards SIGTERM to any process: `stop_wanted` turns true in all of them at the same
step, and all save it. The others notice a dead process within `timeout` seconds.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unified_jax.errors import RunError, UserError
from unified_jax.precision import seed_key

T = TypeVar("T")

WORDS = 1000
"""Most bytes of a failure message that are sent to the other processes."""


@dataclass(frozen=True)
class Hosts:
    """How the processes of a run find each other. All of them start with the same flags but `index`."""

    coordinator: str = ""
    """HOST:PORT of process 0; 'auto' asks SLURM, Kubernetes, TPU metadata or Open MPI; empty: one process."""
    count: int = 0
    """Number of processes (with HOST:PORT)."""
    index: int = -1
    """Index of this process, from 0 (with HOST:PORT)."""
    timeout: int = 30
    """Seconds without a heartbeat after which a process counts as dead and the others exit."""
    join_timeout: int = 300
    """Seconds that a process waits for the others at the start."""

    def __post_init__(self) -> None:
        if self.timeout < 10 or self.join_timeout < 1:
            raise UserError(
                "--hosts.timeout must be at least 10 seconds and --hosts.join-timeout 1, found "
                f"{self.timeout} and {self.join_timeout}."
            )
        named = self.coordinator not in ("", "auto")
        if not named and (self.count or self.index >= 0):
            raise UserError("--hosts.count and --hosts.index go with --hosts.coordinator HOST:PORT.")
        if named:
            host, _, port = self.coordinator.rpartition(":")
            if not host or not port.isdigit():
                raise UserError(f"--hosts.coordinator is HOST:PORT, 'auto' or empty, found {self.coordinator!r}.")
            if self.count < 1 or not 0 <= self.index < self.count:
                raise UserError(
                    f"--hosts.count must be at least 1 and --hosts.index in 0 .. count - 1, found {self.count} and "
                    f"{self.index}."
                )


def join(hosts: Hosts) -> None:
    """Waits for the other processes; before any device is used. Raises UserError if they do not all join."""
    if not hosts.coordinator:
        return
    named: dict[str, Any] = {}
    if hosts.coordinator != "auto":
        named = {"coordinator_address": hosts.coordinator, "num_processes": hosts.count, "process_id": hosts.index}
    try:
        jax.distributed.initialize(
            **named, heartbeat_timeout_seconds=hosts.timeout, initialization_timeout=hosts.join_timeout
        )
    except Exception as error:  # the runtime raises any exception
        why = str(error).strip().split("\n")[0][:200]
        where = hosts.coordinator if named else "the cluster's environment"
        raise UserError(f"The processes of this run did not find each other through {where}: {why}") from error


def writes() -> bool:
    """Whether this process writes the run directory."""
    return jax.process_index() == 0


def name() -> str:
    """This process in messages, as `process 3 of 4 (host)`; empty for a single process."""
    if jax.process_count() == 1:
        return ""
    return f"process {jax.process_index()} of {jax.process_count()} ({socket.gethostname()})"


def together(action: Callable[[], T], by: Literal["all", "first"] = "all") -> T | None:
    """What `action` returns, run by every process or only by process 0 (then None in the others).

    If it fails in one process all raise: that one its own error, the others its message. All must call it, and
    nothing in `action` may wait for other processes.
    """
    if jax.process_count() == 1:
        return action()
    result, failure = None, None
    if by == "all" or writes():
        try:
            result = action()
        except Exception as error:
            failure = error
    _agree(failure)
    return result


def _agree(failure: Exception | None) -> None:
    told = np.zeros(WORDS, np.uint8)
    if failure is not None:
        text = str(failure) if isinstance(failure, UserError | RunError) else f"{type(failure).__name__}: {failure}"
        words = (("U" if isinstance(failure, UserError) else "R") + text).encode()[:WORDS]
        told[: len(words)] = np.frombuffer(words, np.uint8)
    heard = gather(told)
    if failure is not None:
        raise failure
    for index, row in enumerate(heard):
        if row[0]:
            text = bytes(row[row > 0]).decode(errors="replace")
            raise (UserError if text[0] == "U" else RunError)(f"Process {index}: {text[1:]}")


def gather(value: np.ndarray) -> np.ndarray:
    """The value of every process, `[processes, ...]`."""
    if jax.process_count() == 1:
        return value[None]
    return np.asarray(multihost_utils.process_allgather(value)).reshape(jax.process_count(), *value.shape)


def shared(numbers: Sequence[int]) -> list[int]:
    """Process 0's list of at most 64 numbers that are not negative, in all processes. All must call it."""
    if jax.process_count() == 1:
        return list(numbers)
    told = np.full(64, -1, np.int32)
    told[: len(numbers)] = list(numbers)[-64:]
    return [int(n) for n in gather(told)[0] if n >= 0]


def stop_wanted(step: int) -> bool:
    """Whether a process received a stop signal; the same answer in all processes at the same step."""
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)


def lay(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A global array from a value that every process holds in full."""
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def make_key(seed: int, mesh: Mesh) -> jax.Array:
    """The key of a seed, on every device of the mesh."""
    return jax.jit(lambda: seed_key(seed), out_shardings=NamedSharding(mesh, PartitionSpec()))()


def local_rows(sharding: NamedSharding, rows: int) -> np.ndarray:
    """Increasing indices of the rows of a global array that this process's devices hold."""
    held: set[int] = set()
    for index in sharding.addressable_devices_indices_map((rows,)).values():
        held.update(range(rows)[index[0]] if index else range(rows))
    return np.asarray(sorted(held), np.int32)


def lay_rows(value: np.ndarray, held: np.ndarray, rows: int, sharding: NamedSharding) -> jax.Array:
    """A global array of `rows` rows from those that this process holds, numbered `held`."""

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(rows)
        first = int(np.searchsorted(held, start))
        return value[first : first + stop - start][:, *index[1:]]

    return jax.make_array_from_callback((rows, *value.shape[1:]), sharding, part)
