"""Early stopping: a run ends after some measurements without a better one, and stays ended when it is started again."""

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from unified_jax.hosts import shared
from unified_jax.runs.metrics import read_whole_lines
from unified_jax.training.experiment import Best, Experiment


@dataclass(frozen=True)
class Patience:
    """The measurements of a run so far."""

    best: Best
    values: tuple[float, ...] = ()
    """In the order of their steps; NaN where a metric was not finite."""

    def after(self, value: float) -> "Patience":
        """With one more."""
        return replace(self, values=(*self.values, value))

    @property
    def over(self) -> bool:
        """Whether the last `patience` measurements are all no better than one before them."""
        if not self.best.patience:
            return False
        sign, least, since = (-1.0 if self.best.higher else 1.0), math.inf, 0
        for value in self.values:
            better = math.isfinite(value) and sign * value < least
            least, since = (sign * value, 0) if better else (least, since + 1)
        return since >= self.best.patience


def measured(path: Path, experiment: Experiment, last_step: int = sys.maxsize) -> tuple[float, ...]:
    """The measurements of steps <= last_step in a run's metrics.jsonl."""
    name = f"best/{experiment.checkpoint.best.metric}"
    found = [line[name] for line in read_whole_lines(path, last_step) if name in line]
    return tuple(math.nan if value is None else float(value) for value in found)


def out_of_patience(experiment: Experiment, folder: Path, step: int) -> bool:
    """Whether a run that has reached this step ended early."""
    best = experiment.checkpoint.best
    return bool(best.patience) and Patience(best, measured(folder / "metrics.jsonl", experiment, step)).over


def over(experiment: Experiment, folder: Path, step: int) -> bool:
    """Whether a run that has reached this step is finished: all its steps are done, or its patience is at an end.

    The same answer in all processes, which all ask.
    """
    return step >= experiment.steps or bool(shared([int(out_of_patience(experiment, folder, step))])[0])
