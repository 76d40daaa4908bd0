"""Items prepared in background threads, in order; an error where the threads fail or end, never a hang.

Waiting is done in short naps between which the threads are looked at: one that died while it held the wanted item, or
all of them gone, is an error. (Grain's own prefetching waits for a result without end.)
"""

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from unified_jax.errors import RunError

T = TypeVar("T")

NAP = 0.5
"""Seconds between two looks at the threads."""


class Prefetcher(Generic[T], Iterator[T]):
    """`make(first), make(first + 1), ...`: at most `buffer` items ahead of what was taken."""

    def __init__(self, make: Callable[[int], T], first: int, threads: int = 2, buffer: int = 4) -> None:
        self.make, self.buffer = make, buffer
        self.wanted = self.claimed = first
        self.owners: dict[int, threading.Thread] = {}
        self.ready: dict[int, tuple[T | None, BaseException | None]] = {}
        self.stopped = False
        self.changed = threading.Condition()
        self.threads = [threading.Thread(target=self._work, name=f"data-{i}", daemon=True) for i in range(threads)]
        for thread in self.threads:
            thread.start()

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.stopped or self.claimed < self.wanted + self.buffer)
                if self.stopped:
                    return
                index = self.claimed
                self.claimed += 1
                self.owners[index] = threading.current_thread()
            try:
                result = (self.make(index), None)
            except BaseException as error:  # whatever it was, it belongs to whoever waits for this item
                result = (None, error)
            with self.changed:
                self.ready[index] = result
                self.changed.notify_all()

    def __next__(self) -> T:
        """The next item. Raises what `make` raised for it, or RunError where nobody is left to make it."""
        with self.changed:
            while self.wanted not in self.ready:
                self.changed.wait(NAP)
                if self.wanted not in self.ready and self._lost():
                    raise RunError(
                        f"The background threads that prepare the data ended before item {self.wanted}; "
                        "start the same command again."
                    )
            value, error = self.ready.pop(self.wanted)
            self.owners.pop(self.wanted, None)
            self.wanted += 1
            self.changed.notify_all()
        if error is None:
            return value  # pyright: ignore[reportReturnType]
        if isinstance(error, Exception):
            raise error
        raise RunError(f"A background thread that prepares the data failed with {type(error).__name__}.") from error

    def _lost(self) -> bool:
        owner = self.owners.get(self.wanted)
        return not owner.is_alive() if owner else not any(thread.is_alive() for thread in self.threads)

    def close(self) -> None:
        """Lets the threads end after what they are at."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        for thread in self.threads:
            thread.join(timeout=5)
