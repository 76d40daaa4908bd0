"""The cells of a study: its arms after the budget, one run per seed, and their existing results.

    OUT/trained/HASH-seed_N/     a run like any other, shared by arms that differ only in sampling; named
                                 HASH-from_START-seed_N if it starts from another run, and HASH-code_DIGEST-seed_N
                                 if it has classes of the user's own
    OUT/cells/ARM/seed_N/        cell.json (values, provenance, or why it failed), evaluation.json and image grids

HASH is that of the configuration that training depends on: a changed study trains only the changed cells.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from unified_jax.config import config_hash
from unified_jax.data.pipeline import Pipeline
from unified_jax.errors import UserError
from unified_jax.planning.plan import step_flops
from unified_jax.runs.code import code_digest
from unified_jax.runs.directory import read_json
from unified_jax.sharding import make_mesh
from unified_jax.studies.origin import Origin, check_origin, find_origin
from unified_jax.studies.study import Budget, Metric, Study, experiments, set_fields
from unified_jax.training.experiment import Experiment, Previews
from unified_jax.training.program import assemble

Timer = Callable[[Experiment], float]
"""Seconds per step of an experiment."""


@dataclass(frozen=True)
class Arm:
    """A variant, ready to be trained."""

    name: str
    experiment: Experiment
    """Its experiment, with seed 0."""
    seeds: tuple[int, ...]
    parameters: int
    flops_per_step: float
    origin: Origin | None = None
    """The run that its runs start from."""

    @property
    def hash(self) -> str:
        """Hash of its configuration with seed 0."""
        return config_hash(self.experiment)

    @property
    def flops(self) -> float:
        """Training FLOPs of a cell."""
        return self.flops_per_step * self.experiment.steps


@dataclass(frozen=True)
class Cell:
    """One arm with one seed."""

    arm: Arm
    seed: int
    out: Path

    @property
    def experiment(self) -> Experiment:
        """The experiment of this seed."""
        return dataclasses.replace(self.arm.experiment, seed=self.seed)

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"{self.arm.name}, seed {self.seed}"

    @property
    def origin(self) -> str:
        """Description of its start; "" for none."""
        return self.arm.origin.text if self.arm.origin else ""

    @property
    def code(self) -> str:
        """Digest of its custom code, which its run keeps: with other code it is trained anew; "" for none."""
        return code_digest(self.experiment)

    @property
    def run_dir(self) -> Path:
        """The folder of its run."""
        plain = dataclasses.replace(self.arm.experiment, preview=Previews(), evaluate=0)
        start = f"-from_{self.arm.origin.fingerprint}" if self.arm.origin else ""
        code = f"-code_{self.code}" if self.code else ""
        return self.out / "trained" / f"{config_hash(plain)}{start}{code}-seed_{self.seed}"

    @property
    def folder(self) -> Path:
        """The folder of its own results."""
        return self.out / "cells" / self.arm.name / f"seed_{self.seed}"

    @property
    def trained_steps(self) -> int:
        """Steps of its newest checkpoint."""
        names = [path.name for path in (self.run_dir / "checkpoints" / "rolling").glob("*")]
        return max((int(name) for name in names if name.isdigit()), default=0)

    @property
    def trained(self) -> bool:
        """Whether its run is finished."""
        summary = read_json(self.run_dir / "summary.json")
        return bool(summary and summary["finished"] and summary["step"] == self.arm.experiment.steps)

    def record(self, study: Study) -> dict[str, Any] | None:
        """cell.json, if it is of this configuration and holds every metric of the study."""
        found = read_json(self.folder / "cell.json")
        found = found and {"origin": "", "code": ""} | found
        ours = (config_hash(self.experiment), self.origin, self.code)
        if not found or (found["config_hash"], found["origin"], found["code"]) != ours:
            return None
        values = found["values"]
        whole = all(m.title in values for m in study.metrics_of(self.arm.name)) and found["samples"] == samples_of(
            study
        )
        return found if whole or found["failed"] else None


def samples_of(study: Study) -> int:
    """Samples per cell and split; 0 if no metric needs any."""
    return study.samples if any(m.evaluated for m in study.metrics) else 0


def plan_arms(study: Study, settings: dict[str, Any], timer: Timer) -> tuple[Arm, ...]:
    """The arms with sizes and steps by the budget. Raises UserError early for experiments that cannot be built."""
    found = experiments(study, settings)
    base = found.pop("base")
    origin = find_origin(study)
    arms = [_measure("base", base, study, origin)]
    shares = {"base": 1.0} | {v.name: v.share for v in study.variants}
    for name, experiment in found.items():
        if study.budget.adjust:
            experiment = _match_parameters(name, experiment, study.budget, round(shares[name] * arms[0].parameters))
        arms.append(_measure(name, experiment, study, origin))
    return tuple(_match_steps(arm, arms[0], study.budget, shares[arm.name], timer) for arm in arms)


def _measure(name: str, experiment: Experiment, study: Study, origin: Origin | None) -> Arm:
    seeds = {arm.name: arm.seeds for arm in study.arms}[name]
    _check_metrics(name, experiment, study.metrics_of(name))
    try:
        check_origin(experiment, origin)
        program = assemble(experiment, make_mesh(experiment.mesh))
        flops = step_flops(program)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    return Arm(name, experiment, seeds, program.parameters, flops, origin)


def _check_metrics(name: str, experiment: Experiment, metrics: tuple[Metric, ...]) -> None:
    parts = {m.name for m in experiment.model.modalities}
    for m in metrics:
        if missing := sorted({*m.given, *m.wanted} - parts):
            raise UserError(f"{name}: the metric {m.title!r} names {missing[0]!r}, which the model does not have.")
        if m.evaluated:
            Pipeline(experiment.data, m.split, experiment.model.modalities, 1, 0)  # refuses an unknown split


def _match_parameters(name: str, experiment: Experiment, budget: Budget, goal: int) -> Experiment:
    """The experiment with the value of `budget.adjust` whose parameter count is closest to the goal."""

    def sized(k: int) -> Experiment:
        return set_fields(experiment, {budget.adjust: k * budget.multiple})

    def count(k: int) -> int:
        shapes = jax.eval_shape(sized(k).model.init, jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    low, high = 1, 2
    try:
        while count(high) < goal:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if count(middle) < goal else (low, middle)
        return sized(min((low, high), key=lambda k: abs(count(k) - goal)))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{name}: no model could be built while {budget.adjust} was searched in multiples of {budget.multiple}: "
            f"{error}"
        ) from error


def _match_steps(arm: Arm, base: Arm, budget: Budget, share: float, timer: Timer) -> Arm:
    match budget.by:
        case "steps":
            return arm
        case "flops":
            steps = (budget.amount or base.flops) / arm.flops_per_step
        case "seconds":
            whole = budget.amount or timer(base.experiment) * base.experiment.steps
            steps = whole / timer(arm.experiment)
    steps *= share
    if steps < 1:
        raise UserError(f"{arm.name}: the budget is too small for one step; raise its amount.")
    return dataclasses.replace(arm, experiment=dataclasses.replace(arm.experiment, steps=round(steps)))


def cells_of(arms: tuple[Arm, ...], out: Path) -> list[Cell]:
    """All cells, arm by arm."""
    return [Cell(arm, seed, out) for arm in arms for seed in arm.seeds]
