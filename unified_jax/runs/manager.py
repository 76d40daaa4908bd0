"""Orbax' checkpoint manager as runs use it: its options, the seal of checksums, what an ended save left behind."""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from unified_jax.runs.checksums import seal


def open_manager(folder: Path, keep: int, write: bool, keep_every: int) -> ocp.CheckpointManager:
    """The manager of a folder of checkpoints; with `write` the folder is made, and half saves in it are removed.

    keep        checkpoints kept
    keep_every  beside them, those of steps that are multiples of it; 0: none
    """

    def finish() -> None:
        """Runs in Orbax's thread after all files are written, before the folder gets its final name."""
        if jax.process_index() == 0:
            for half in unfinished(folder):
                seal(half)

    if write and jax.process_index() == 0:  # the run's lock is held: whoever wrote these is gone
        for half in unfinished(folder):
            shutil.rmtree(half, ignore_errors=True)
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "loss": ocp.JsonCheckpointHandler()}
    with _quiet():
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every or None,
            create=write,
            # Both managers may save at once, and processes meet at barriers by name.
            multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=folder.name),
            cleanup_tmp_directories=write,
            read_only=not write,
            async_options=ocp.AsyncOptions(post_finalization_callback=finish) if write else None,
        )
        return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Orbax's warnings about options that it sets itself where a folder is only read."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def unfinished(folder: Path) -> list[Path]:
    """Steps that are being written, or were when something failed."""
    return sorted(folder.glob("*.orbax-checkpoint-tmp*"))
