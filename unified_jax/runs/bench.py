"""The state of an evaluation over all splits, and its results: evaluation.json and images."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unified_jax.config import to_plain
from unified_jax.data.pipeline import HostBatch, Pipeline
from unified_jax.evaluation.finite import check_samples
from unified_jax.hosts import writes
from unified_jax.models.sampling import generate_many
from unified_jax.runs.directory import provenance, read_json, write_json
from unified_jax.runs.folders import new_files
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.training.experiment import Experiment
from unified_jax.typing import Params

RESULT = "evaluation.json"


@dataclass(frozen=True)
class Bench:
    """State shared by all splits."""

    experiment: Experiment
    params: Params
    count: int
    batch: int
    seed: int
    plan: SamplingPlan
    show: bool = True
    """Bars and tables on the terminal."""
    pictures: dict[str, Any] = field(default_factory=dict)
    """File name -> image that is written at the end."""

    def examples(self, split: str, fields: tuple[str, ...] = ()) -> HostBatch:
        """The first `count` examples of a split in the order of the seed: these fields, or all of the model's."""
        modalities = fields_of(self.experiment.model, fields)
        return Pipeline(self.experiment.data, split, modalities, self.count, self.seed).batch(0)

    def of_size(self, count: int, split: str) -> int:
        """At most as many examples as a split has: one that counts twice would make an interval too narrow."""
        return min(count, Pipeline(self.experiment.data, split, self.experiment.model.modalities, 1, 0).size)

    def bar(self, what: str, total: int, unit: str = "sample") -> Any:
        """A progress bar for sampling."""
        return tqdm(total=total, unit=unit, desc=what, dynamic_ncols=True, disable=not self.show or not writes())

    def draw(
        self, given: dict[str, np.ndarray], wanted: tuple[str, ...], report: Callable[[int], Any],
        plan: SamplingPlan | None = None,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """`generate_many`, for `count` samples. Raises RunError if one is not finite."""
        made = generate_many(
            self.experiment.model, self.params, given, wanted, self.count, self.seed, plan or self.plan, self.batch,
            self.experiment.rules, report,
        )  # fmt: skip
        check_samples(made)
        return made

    def write(self, out: Path, rows: list[dict[str, Any]], step: int, only: tuple[str, ...] = ()) -> None:
        """Writes evaluation.json and the images, in place of those of the previous evaluation; `only` was given."""
        result = {
            "rows": rows,
            "step": step,
            "plan": to_plain(self.plan),
            "sampling_seed": self.seed,
            "count": self.count,
        }
        result |= {"scores": scores} if (scores := to_plain(self.experiment.scores)) else {}
        result |= {"only": only} if only else {}
        with new_files(out, _older(out), RESULT) as folder:
            for name, picture in self.pictures.items():
                picture.save(folder / name)
            write_json(folder / RESULT, result | provenance(self.experiment))


def fields_of(model: Any, fields: tuple[str, ...] = ()) -> tuple[Any, ...]:
    """The modalities of these fields, or all of the model's."""
    return tuple(m for m in model.modalities if not fields or m.name in fields)


def _older(out: Path) -> list[str]:
    """The images of the evaluation that `out` holds, by the splits that it names."""
    rows = (read_json(out / RESULT) or {}).get("rows")
    rows = rows if isinstance(rows, list) else []
    splits = "|".join({re.escape(str(row["split"])) for row in rows if isinstance(row, dict) and "split" in row})
    name = re.compile(rf"(evaluation|matrix)_({splits})(_[a-z0-9_]+_to_[a-z0-9_]+|_joint)?\.png")
    return [path.name for path in out.iterdir() if splits and name.fullmatch(path.name)]
