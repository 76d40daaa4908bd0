"""Items prepared in background threads, in order; an error if the threads fail or end, never a hang.

The consumer waits in short intervals and checks the threads in between: it raises an error if the thread of the next
item died, or all of them did. (Grain's own prefetching would wait forever.)
"""

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from unified_jax.errors import RunError

T = TypeVar("T")

NAP = 0.5
"""Seconds between checks of the threads."""


class Prefetcher(Generic[T], Iterator[T]):
    """`make(first), make(first + 1), ...`: at most `buffer` items ahead."""

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
            except BaseException as error:  # raised again for the consumer of this item
                result = (None, error)
            with self.changed:
                self.ready[index] = result
                self.changed.notify_all()

    def __next__(self) -> T:
        """The next item. Raises what `make` raised for it, or RunError if no thread is left to make it."""
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
        """Lets the threads end after their current item."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        for thread in self.threads:
            thread.join(timeout=5)
