"""Training in stages: runs one after the other, each from the parameters of the one before (`train RECIPE --stages`).

    RUN_DIR/stage_1, RUN_DIR/stage_2, ...        ordinary run directories

A recipe's `stages()` returns their experiments: from low to high resolution, or from a large data set to the one that
is wanted. The same command goes on after an interruption at any moment: finished stages are skipped, an unfinished one
resumes, and one without a checkpoint begins anew from the stage before.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unified_jax.errors import UserError
from unified_jax.hosts import together, writes
from unified_jax.runs import directory as runs
from unified_jax.runs.bench import RESULT
from unified_jax.runs.listing import describe, table
from unified_jax.runs.loop import train
from unified_jax.runs.metrics import JointBar, make_bar
from unified_jax.runs.notice import say
from unified_jax.runs.resume import check_same_run
from unified_jax.runs.start import ORIGIN, Start, check_graft
from unified_jax.training.experiment import Experiment


@dataclass(frozen=True)
class Staged:
    """A training in stages."""

    experiments: tuple[Experiment, ...]
    start: Start
    """Of the whole: RUN_DIR, and where the first stage starts from."""
    evaluate: Callable[[Experiment, Path], Any] = lambda experiment, folder: None
    """What follows a stage whose experiment asks for an evaluation."""

    def folder(self, i: int) -> Path:
        """The run directory of a stage."""
        return self.start.run_dir / f"stage_{i + 1}"

    @property
    def folders(self) -> list[Path]:
        """All of them."""
        return [self.folder(i) for i in range(len(self.experiments))]

    def run(self) -> bool:
        """Trains what is not finished; whether all are. Raises UserError before the first step, for any stage."""
        done = together(self._check)
        assert done is not None
        total, since, before = sum(e.steps for e in self.experiments), time.monotonic(), 0
        bar = make_bar(total, 0, not self.start.quiet and writes())
        try:
            for i, experiment in enumerate(self.experiments):
                if i not in done and not self._train(i, JointBar(bar, before), since):
                    return False
                self._evaluated(i)
                before += experiment.steps
                bar.update(before - bar.n)  # a stage may have ended early
            return True
        finally:
            bar.close()

    def table(self) -> str:
        """The stages that have begun, a line each."""
        there = [folder for folder in self.folders if (folder / "config.json").is_file()]
        begun = [(runs.read_json(folder / ORIGIN) or {}).get("run") for folder in there]
        rows = [{**describe(f), "run": f.name, "from": source} for f, source in zip(there, begun, strict=True)]
        return f"Stages in {self.start.run_dir}:\n{table(rows)}"

    def _train(self, i: int, joint: JointBar, since: float) -> bool:
        start, experiment = self.start, self.experiments[i]
        if not start.quiet and writes():
            say(f"Stage {i + 1} of {len(self.experiments)}: {self.folder(i)}")
        left = max(start.hours - (time.monotonic() - since) / 3600, 1e-6) if start.hours else 0.0
        names = [one.name for one in experiment.model.stages]
        own = replace(
            start, run_dir=self.folder(i), joint=joint, hours=left, trust=start.trust or i > 0,
            resume="auto" if i and start.resume == "must" else start.resume,
            init_from=self.folder(i - 1) if i else start.init_from,
            places={name: path for name, path in start.places.items() if name in names},
        )  # fmt: skip
        return bool(train(experiment, own)["finished"])

    def _evaluated(self, i: int) -> None:
        experiment, folder = self.experiments[i], self.folder(i)
        step = runs.read_summary(folder / "summary.json").get("step")
        known = (runs.read_json(folder / RESULT) or {}).get("step")
        if experiment.evaluate and known != step:
            self.evaluate(experiment, folder)

    def _check(self) -> set[int]:
        """The finished stages. Raises UserError for stages that do not follow from each other, or another recipe's."""
        for i, (before, after) in enumerate(zip(self.experiments, self.experiments[1:], strict=False)):
            try:
                check_graft(after, before)
            except UserError as error:
                raise UserError(f"Stage {i + 2} cannot start from stage {i + 1}: {error}") from None
        done = set()
        for i, experiment in enumerate(self.experiments):
            folder = self.folder(i)
            if not (folder / "config.json").is_file():
                continue
            check_same_run(experiment, folder)
            if i:
                self._check_origin(i, done)
            summary = runs.read_summary(folder / "summary.json")
            ended = summary.get("step") == experiment.steps or bool(experiment.checkpoint.best.patience)
            if summary.get("finished") and ended:
                done.add(i)
        if self.start.resume == "never" and done:
            raise UserError(f"{str(self.start.run_dir)!r} already holds stages; choose another --run-dir.")
        return done

    def _check_origin(self, i: int, done: set[int]) -> None:
        """Raises UserError for a stage that began from another step of the one before than its last."""
        folder, before = self.folder(i), self.folder(i - 1)
        began = (runs.read_json(folder / ORIGIN) or {}).get("step")
        last = runs.read_summary(before / "summary.json").get("step")
        if any((folder / "checkpoints" / "rolling").glob("[0-9]*")) and (i - 1 not in done or began != last):
            raise UserError(
                f"{str(folder)!r} began from step {began} of {before.name}, which is not its end now; choose another "
                "--run-dir, or remove what follows from it."
            )
