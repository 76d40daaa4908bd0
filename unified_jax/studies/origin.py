"""The run that all cells of a study start from (`Study.init_from`)."""

from dataclasses import dataclass
from pathlib import Path

from unified_jax.errors import UserError
from unified_jax.runs import directory as runs
from unified_jax.runs.checkpoints import Checkpoints
from unified_jax.runs.checksums import fingerprint
from unified_jax.runs.start import check_graft
from unified_jax.studies.study import Study
from unified_jax.training.experiment import Experiment


@dataclass(frozen=True)
class Origin:
    """A trained run, identified by its parameters: the same run trained further is another origin."""

    run_dir: Path
    experiment: Experiment
    step: int
    fingerprint: str
    """Fingerprint of its newest checkpoint."""

    @property
    def text(self) -> str:
        """Its name in records and reports."""
        return f"{self.run_dir.name}, step {self.step}, {self.fingerprint}"


def find_origin(study: Study) -> Origin | None:
    """None if cells start from scratch. Raises UserError if the folder is not a run, or has no checkpoint."""
    if not study.init_from:
        return None
    run_dir = Path(study.init_from)
    experiment = runs.load_experiment(run_dir, study.trust)
    steps = Checkpoints(run_dir, write=False).steps()
    if not steps:
        raise UserError(f"{str(run_dir)!r} holds no finished checkpoint, so no cell can start from it.")
    newest = run_dir / "checkpoints" / "rolling" / str(steps[-1])
    return Origin(run_dir, experiment, steps[-1], fingerprint(newest))


def check_origin(experiment: Experiment, origin: Origin | None) -> None:
    """Raises UserError for an arm that cannot start there."""
    if origin is not None:
        check_graft(experiment, origin.experiment)
    elif not experiment.tuning.full:
        raise UserError(
            f"it trains {experiment.tuning.train} and freezes the rest; say which run it starts from, with "
            "Study.init_from or --init-from RUN."
        )
