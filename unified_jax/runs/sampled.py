"""Samples of a run as a set of pictures, drawn when they are asked for.

Sample i depends only on (seed, i) and its conditions, so they need not be kept.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from unified_jax.config import to_plain
from unified_jax.data.pipeline import Pipeline
from unified_jax.errors import UserError
from unified_jax.evaluation.finite import check_samples
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.sampling import generate_many
from unified_jax.runs.directory import provenance
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.training.experiment import Experiment
from unified_jax.typing import Params

Conditions = Literal["data", "balanced"]


@dataclass(frozen=True)
class SampledPictures:
    """The samples of a model that makes one image."""

    experiment: Experiment
    params: Params
    given: dict[str, np.ndarray] = field(repr=False)
    """Prepared conditions, one row a sample."""
    count: int
    batch: int
    seed: int
    plan: SamplingPlan
    mark: str
    """What else decides the samples: the checkpoint, the conditions."""

    @property
    def modality(self) -> Image:
        """The image that is made."""
        return image_of(self.experiment.model)

    @property
    def name(self) -> str:
        """In rows and sentences."""
        return f"samples of {self.mark}"

    @property
    def digest(self) -> str:
        """Of all that decides them but their number: more of the same begin with these."""
        run = provenance(self.experiment)["config_hash"]
        text = json.dumps([run, self.mark, self.seed, to_plain(self.plan)], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def __len__(self) -> int:
        return self.count

    def rows(self, first: int, count: int) -> Sequence[Any]:
        """See `Pictures`: drawn now. Raises RunError if one is not finite."""
        given = {name: value[first : first + count] for name, value in self.given.items()}
        made = generate_many(
            self.experiment.model, self.params, given, (self.modality.name,), count, self.seed, self.plan, self.batch,
            self.experiment.rules, first=first,
        )  # fmt: skip
        check_samples(made)
        return list(self.modality.from_model(made[self.modality.name]))


def _in_turn(count: int, combinations: int, several: bool) -> Int[np.ndarray, "n"]:
    """Numbers of combinations of classes, all in turn; of several labels by a stride: a part has all classes."""
    stride = round(0.618 * combinations) if several else 1
    while math.gcd(stride, combinations) > 1:
        stride += 1
    return np.arange(count) * max(stride, 1) % combinations


def image_of(model: Any) -> Image:
    """The image that a model makes by default. Raises UserError for a model that makes anything else."""
    wanted = model.request((), ())[1] if model.wantable else ()
    made = [m for m in model.modalities if m.name in wanted]
    if len(made) != 1 or not isinstance(made[0], Image) or made[0].channels not in (1, 3):
        what = ", ".join(f"{m.name} ({type(m).__name__})" for m in made) or "nothing"
        raise UserError(f"These distances compare pictures; this model makes {what}.")
    return made[0]


def conditions_of(
    experiment: Experiment, split: str, count: int, seed: int, how: Conditions = "data"
) -> dict[str, np.ndarray]:
    """The conditions of `count` samples: of a split's examples in the order of the seed, or every class in turn.

    Raises UserError for "balanced" conditions that are not labels.
    """
    model: Any = experiment.model
    fields, _ = model.request((), ())
    sources = tuple(m for m in model.modalities if m.name in fields)
    if how == "balanced":
        others = [m.name for m in sources if not isinstance(m, Label)]
        if others or not sources:
            raise UserError(f"Balanced conditions are of labels; this model reads {', '.join(others) or 'nothing'}.")
        found, index = {}, _in_turn(count, math.prod(label.classes for label in sources), several=len(sources) > 1)
        for label in sources:
            found[label.name] = (index % label.classes).astype(np.int32)
            index = index // label.classes
        return found
    if not sources:
        return {}
    examples = Pipeline(experiment.data, split, sources, count, seed).batch(0).arrays
    return {m.name: examples[m.name] for m in sources}
