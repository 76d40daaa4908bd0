"""Checkpoints through Orbax: asynchronous, atomic, rolling and best kept apart. The one module that knows Orbax.

    RUN/checkpoints/rolling/STEP/state     the last `keep` checkpoints; a run resumes from the newest
    RUN/checkpoints/best/STEP/state        the one with the lowest validation loss

A save that was cut short leaves a temporary folder that is never taken for a checkpoint and is removed at the next
start.
"""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from unified_jax.errors import RunError, UserError
from unified_jax.training.state import State


@dataclass(frozen=True)
class Checkpointing:
    """When checkpoints are written and how many are kept."""

    every: int = 1000
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 2
    """Rolling checkpoints kept."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise ValueError(f"checkpoint.every and checkpoint.keep must be at least 1, found {self}.")


class Checkpoints:
    """The checkpoints of one run directory; leaving the `with` block waits for what is being written."""

    def __init__(self, run_dir: Path, keep: int = 2, write: bool = True) -> None:
        folder = (run_dir / "checkpoints").absolute()
        self.folder = folder
        if not write and not (folder / "rolling").is_dir():
            raise UserError(f"{str(run_dir)!r} holds no finished checkpoint.")
        self.rolling = _manager(folder / "rolling", keep, write)
        self.best = _manager(folder / "best", 1, write)

    def steps(self) -> list[int]:
        """Steps of the rolling checkpoints, rising."""
        return sorted(self.rolling.all_steps())

    def save(self, state: State, step: int) -> None:
        """Starts an asynchronous save; a step that is already saved is left alone. Raises RunError if it cannot."""
        if step in self.rolling.all_steps():
            return
        self._save(self.rolling, state, step, None)

    def save_best(self, state: State, step: int, loss: float) -> None:
        """Saves if `loss` is the lowest so far."""
        self.best.wait_until_finished()
        kept = self.best.latest_step()
        if kept is not None and kept < step and self._best_loss(kept) <= loss:
            return
        self._save(self.best, state, step, loss)

    def _save(self, manager: ocp.CheckpointManager, state: State, step: int, loss: float | None) -> None:
        try:
            items: dict[str, Any] = {"state": ocp.args.PyTreeSave(_as_dict(state))}
            if loss is not None:
                items["loss"] = ocp.args.JsonSave({"loss": loss})
            saved = manager.save(step, args=ocp.args.Composite(**items), force=True)
        except (OSError, ValueError) as error:
            raise RunError(self._cannot(step, error)) from error
        if not saved:
            raise RunError(f"The checkpoint of step {step} was refused by {manager.directory}.")

    def _best_loss(self, step: int) -> float:
        return json.loads((Path(self.best.directory) / str(step) / "loss" / "metadata").read_text())["loss"]

    def drop_after(self, step: int) -> None:
        """Forgets best checkpoints of steps that a resumed run will do again."""
        for later in [s for s in self.best.all_steps() if s > step]:
            self.best.delete(later)

    def restore(self, like: Any, step: int | None = None) -> Any:
        """The state of a rolling checkpoint (default the newest) laid out as `like`: ShapeDtypeStructs with shardings.

        `like` may hold only some of the state's fields. Raises UserError for a damaged or different checkpoint.
        """
        return self._restore(self.rolling, like, step)

    def restore_best(self, like: Any) -> Any:
        """The same for the best checkpoint."""
        return self._restore(self.best, like, None)

    def _restore(self, manager: ocp.CheckpointManager, like: Any, step: int | None) -> Any:
        step = manager.latest_step() if step is None else step
        if step is None:
            raise UserError(f"{manager.directory} holds no finished checkpoint.")
        item = _as_dict(like) if isinstance(like, State) else like
        arguments = ocp.args.PyTreeRestore(
            item=item,
            restore_args=ocp.checkpoint_utils.construct_restore_args(item),
            partial_restore=True,
        )
        try:
            restored = manager.restore(step, args=ocp.args.Composite(state=arguments))["state"]
            _check_shapes(item, restored)
        except Exception as error:
            others = [s for s in self.steps() if s != step]
            hint = f"delete that folder to go back to step {others[-1]}" if others else "no other checkpoint is kept"
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"The checkpoint {manager.directory}/{step} cannot be read: {reason[:300]} It is damaged or was "
                f"written for another model; {hint}."
            ) from error
        return State(**restored) if isinstance(like, State) else restored

    def wait(self) -> None:
        """Until everything is on disk. Raises RunError where that failed."""
        for manager in (self.rolling, self.best):
            try:
                manager.wait_until_finished()
            except Exception as error:
                raise RunError(self._cannot(None, error)) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.wait()
        for manager in (self.rolling, self.best):
            with contextlib.suppress(Exception):  # what failed has been said: by wait, or by the error on its way
                manager.close()

    def _cannot(self, step: int | None, error: Exception) -> str:
        kept = self.steps()
        safe = f"the last good checkpoint is step {kept[-1]}" if kept else "there is no earlier checkpoint"
        what = "A checkpoint" if step is None else f"The checkpoint of step {step}"
        reason = str(error).strip()
        full = any(words in reason for words in ("No space left", "RESOURCE_EXHAUSTED", "Disk quota"))
        return f"{what} could not be written to {self.folder}: {'the disk is full' if full else reason[:200]}; {safe}."


def _manager(folder: Path, keep: int, write: bool) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=write, cleanup_tmp_directories=write, read_only=not write
    )
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "loss": ocp.JsonCheckpointHandler()}
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


def _as_dict(state: State) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ("step", "params", "ema", "opt_state", "aux", "balance")}


def _check_shapes(item: Any, restored: Any) -> None:
    for (path, want), (_, got) in zip(
        jax.tree_util.tree_leaves_with_path(item), jax.tree_util.tree_leaves_with_path(restored), strict=True
    ):
        if want.shape != got.shape:
            raise ValueError(f"{jax.tree_util.keystr(path)} has shape {got.shape}, expected {want.shape}.")
