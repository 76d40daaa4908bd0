"""A watchdog: a run whose steps stop finishing prints the stacks of all threads, and exits.

A collective whose partner is gone, a network disk that never answers, a deadlock: none of them raises. Every finished
step is a beat; without one for `seconds` the stacks of all threads go to stderr and the process exits with 1. Time is
monotonic, so that clock jumps have no effect.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable


class Pulse:
    """Watches while its `with` block runs; `seconds` 0 watches nothing."""

    def __init__(self, seconds: float, last_words: Callable[[], str]) -> None:
        self.seconds, self.last_words = seconds, last_words
        self.at, self.what = time.monotonic(), "the start"
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self, what: str) -> None:
        """Reports progress: `step 12`."""
        self.at, self.what = time.monotonic(), what

    def _watch(self) -> None:
        while not self.over.wait(min(1.0, self.seconds / 4)):
            if time.monotonic() - self.at > self.seconds:
                self._end()

    def _end(self) -> None:
        try:
            print(f"\nNo step was finished for {self.seconds:g} s, after {self.what}. All threads:", file=sys.stderr)
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
            print(
                f"error: The run hangs after {self.what}: see the stacks above (--stall sets how long it may). "
                f"{self.last_words()}",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        finally:
            os._exit(1)

    def __enter__(self) -> "Pulse":
        if self.seconds:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
