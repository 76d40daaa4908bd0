"""Checkpoints through Orbax (`manager.py`): asynchronous, atomic, rolling and best kept apart.

    RUN/checkpoints/rolling/STEP/state     the last `keep` checkpoints; a run resumes from the newest
    RUN/checkpoints/best/STEP/state        the one with the lowest validation loss
    RUN/checkpoints/damaged/STEP           unreadable ones, set aside when a run resumed from an earlier one

An interrupted save leaves a temporary folder that never counts as a checkpoint and is removed at the next start. Each
step holds the checksums of its files (`checksums.py`), compared before a restore. A failed save, as on a full disk, is
reported; training continues, and the next save tries again. A state with numbers that are not finite is neither saved
nor restored (`finite.py`).
"""

import contextlib
import functools
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from unified_jax.errors import RunError, UserError
from unified_jax.hosts import shared, together
from unified_jax.runs import reading
from unified_jax.runs.finite import not_finite, told
from unified_jax.runs.manager import open_manager, unfinished
from unified_jax.runs.notice import say
from unified_jax.training.experiment import Checkpointing  # noqa: F401  (its old home)
from unified_jax.training.state import State


class Checkpoints:
    """The checkpoints of one run directory; leaving the `with` block waits for pending saves."""

    def __init__(self, run_dir: Path, keep: int = 2, write: bool = True, keep_every: int = 0) -> None:
        folder = (run_dir / "checkpoints").absolute()
        self.folder = folder
        reading.check_path(folder)
        if not write and not (folder / "rolling").is_dir():
            raise UserError(f"{str(run_dir)!r} holds no finished checkpoint.")
        self.reason = ""
        try:
            self.rolling = open_manager(folder / "rolling", keep, write, keep_every)
            self.best = open_manager(folder / "best", 1, write, 0)
        except OSError as error:
            raise reading.explain(error, folder, "") from error

    def steps(self) -> list[int]:
        """Increasing steps of the complete rolling checkpoints, without one that is being written."""
        folder = Path(self.rolling.directory)  # Orbax counts a step as soon as its save begins
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []

    def last_good(self, wait: bool = False) -> str:
        """A sentence: the checkpoint from which a failed run can resume.

        With `wait` it includes a pending save; only in a single process, since others may be gone.
        """
        if wait and jax.process_count() == 1:
            self._collect(self.rolling)
        kept = self.steps()
        return f"The last good checkpoint is step {kept[-1]}." if kept else "There is no checkpoint yet."

    def save(self, state: State, step: int) -> None:
        """Starts an asynchronous save; a step that is already saved is skipped. A failure is reported, not raised.

        Raises RunError, and saves nothing, for a state with numbers that are not finite.
        """
        self._collect(self.rolling)
        self._collect(self.best)  # a run never resumes from after a best checkpoint that was not finished
        if step not in self.rolling.all_steps():
            self._refuse_not_finite(state, step)
            self._save(self.rolling, state, step, None)

    def save_last(self, state: State, step: int) -> None:
        """Saves the final state of a run, and waits for it. Raises RunError if that fails twice."""
        for _ in range(2):
            self.save(state, step)
            self._collect(self.rolling)
            if step in self.rolling.all_steps():
                return
        kept = self.steps()
        on = f"the same command goes on from step {kept[-1]}" if kept else "nothing of this run could be saved"
        raise RunError(f"The last step, {step}, could not be saved in {self.folder}: {self.reason}; {on}.")

    def save_best(self, state: State, step: int, loss: float, of: str = "") -> None:
        """Saves if `loss` is finite and the lowest so far. A failure is reported, not raised. RunError as `save`.

        of   what it measures, in words; a checkpoint that was the best by another measurement is replaced
        """
        self._collect(self.best)
        kept = self.best.latest_step()
        least = (
            math.nan if kept is None or kept >= step else reading.best_loss(Path(self.best.directory) / str(kept), of)
        )
        better = math.isfinite(loss) and not least <= loss
        if shared([int(better)])[0]:  # all save, or none
            self._refuse_not_finite(state, step)
            self._save(self.best, state, step, {"loss": loss, "of": of})

    def _refuse_not_finite(self, state: State, step: int) -> None:
        bad = not_finite(_as_dict(state))

        def refuse() -> None:
            if bad:
                raise RunError(
                    f"After step {step} {told(bad)} hold(s) numbers that are not finite, so this state is not saved. "
                    f"{self.last_good()} The same settings would come to the same: {reading.AGAIN}."
                )

        together(refuse)

    def _save(self, manager: ocp.CheckpointManager, state: State, step: int, measured: dict[str, Any] | None) -> None:
        items: dict[str, Any] = {"state": ocp.args.PyTreeSave(_as_dict(state))}
        if measured is not None:
            items["loss"] = ocp.args.JsonSave(measured)
        try:
            if not manager.save(step, args=ocp.args.Composite(**items), force=True):
                raise ValueError(f"step {step} was refused")
        except Exception as error:  # Orbax and TensorStore raise any exception
            self._failed(manager, error)

    def _collect(self, manager: ocp.CheckpointManager) -> None:
        """Waits for the pending save, and reports a failure."""
        try:
            manager.wait_until_finished()
        except Exception as error:
            self._failed(manager, error)

    def _failed(self, manager: ocp.CheckpointManager, error: Exception) -> None:
        manager.reload()
        if jax.process_index() == 0:  # an incomplete save takes the disk space of the next one
            for half in unfinished(Path(manager.directory)):
                shutil.rmtree(half, ignore_errors=True)
        text = str(error).strip() or type(error).__name__
        full = any(words in text for words in ("No space left", "RESOURCE_EXHAUSTED", "Disk quota"))
        self.reason = "the disk is full" if full else text.splitlines()[0][:200]
        say(
            f"A checkpoint could not be written to {manager.directory}: {self.reason}; the next save tries again. "
            f"{self.last_good()}"
        )

    def drop_after(self, step: int) -> None:
        """Removes best checkpoints of steps that a resumed run will repeat."""
        for later in [s for s in self.best.all_steps() if s > step]:
            self.best.delete(later)

    def restore(self, like: Any, step: int | None = None) -> Any:
        """The state of a rolling checkpoint (default: the newest) sharded as `like`: ShapeDtypeStructs with shardings.

        `like` may hold only some of the state's fields. Raises UserError for a damaged or different checkpoint.
        """
        return self._restore(self.rolling, like, step)

    def restore_newest(self, like: Any, fall_back: bool) -> Any:
        """The newest checkpoint; with `fall_back` the newest that can be read.

        Those after it are moved to checkpoints/damaged/ and named on stderr. Raises UserError, and moves nothing, if
        none can be read.
        """
        damaged: list[tuple[int, UserError]] = []
        for step in reversed(shared(self.steps())):
            try:
                state = self.restore(like, step)
            except UserError as error:
                damaged.append((step, error))
                if not fall_back:
                    break
                continue
            for bad, error in damaged:
                say(f"{error} It was moved to {self._set_aside(bad)}; the run goes on from step {step}.")
            return state
        raise damaged[0][1]

    def _set_aside(self, step: int) -> Path:
        target = self.folder / "damaged" / str(step)
        together(functools.partial(reading.set_aside, Path(self.rolling.directory) / str(step), target), by="first")
        self.rolling.reload()
        return target

    def restore_best(self, like: Any) -> Any:
        """The same for the best checkpoint."""
        return self._restore(self.best, like, None)

    def restore_step(self, like: Any, step: int) -> Any:
        """The same for any checkpoint that is kept, the best one too. Raises UserError if none is of this step."""
        if step in self.steps():
            return self._restore(self.rolling, like, step)
        if step in self.best.all_steps():
            return self._restore(self.best, like, step)
        kept = ", ".join(map(str, sorted({*self.steps(), *self.best.all_steps()}))) or "none"
        raise UserError(f"{self.folder} holds no checkpoint of step {step}; it keeps {kept}.")

    def _restore(self, manager: ocp.CheckpointManager, like: Any, step: int | None) -> Any:
        newest = shared([s for s in (manager.latest_step() if step is None else step,) if s is not None])
        if not newest:
            raise UserError(f"{manager.directory} holds no finished checkpoint.")
        chosen, folder = newest[0], Path(manager.directory) / str(newest[0])
        item = _as_dict(like) if isinstance(like, State) else like
        arguments = ocp.args.PyTreeRestore(
            item=item,
            restore_args=ocp.checkpoint_utils.construct_restore_args(item),
            partial_restore=True,
        )
        before = [s for s in self.steps() if s < chosen or manager is self.best]
        other = "without --best there is" if manager is self.best else "delete that folder to go back to"
        earlier = f"{other} step {before[-1]}" if before else ""
        try:
            together(functools.partial(reading.check_files, folder, earlier), by="first")
            restored = manager.restore(chosen, args=ocp.args.Composite(state=arguments))["state"]
            together(functools.partial(reading.check_arrays, item, restored, not_finite(restored), folder, earlier))
        except Exception as error:
            if step is None and jax.process_count() == 1 and self._moved_on(manager, chosen):
                return self._restore(manager, like, None)
            if isinstance(error, UserError | RunError):
                raise
            raise reading.explain(error, folder, earlier) from error
        return State(**restored) if isinstance(like, State) else restored

    @staticmethod
    def _moved_on(manager: ocp.CheckpointManager, step: int) -> bool:
        """Whether a run that is still training has replaced this checkpoint by a newer one."""
        manager.reload()
        latest = manager.latest_step()
        return latest is not None and latest > step

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None and jax.process_count() > 1:
            return  # a save waits for all processes, and one of them may be gone
        for manager in (self.rolling, self.best):
            self._collect(manager)
            with contextlib.suppress(Exception):  # the failure was reported
                manager.close()


def _as_dict(state: State) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ("step", "params", "ema", "opt_state", "aux", "balance")}
