"""A metric of samples during training, as `checkpoint.best` asks; in metrics.jsonl and TensorBoard it is best/METRIC.

The samples are of the first EMA, with fixed noise and the conditions of the validation split, so that two measurements
differ by the parameters alone. The reference's features are computed once and cached (`extraction`).
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.errors import UserError
from unified_jax.evaluation import evaluate as ev
from unified_jax.evaluation.comparison import Measures, compare
from unified_jax.evaluation.extractors import Extractor, Inception, PooledPixels
from unified_jax.evaluation.feature_sets import FeatureSet
from unified_jax.evaluation.finite import check_samples
from unified_jax.models.sampling import generate_many
from unified_jax.runs import distance
from unified_jax.runs.extraction import cache_folder
from unified_jax.runs.previews import PREVIEW_SEED, held_out_pipeline
from unified_jax.runs.sampled import SampledPictures, conditions_of, image_of
from unified_jax.training.experiment import Experiment
from unified_jax.typing import Params

OF_INCEPTION = {
    "fid": "frechet", "sfid": "spatial", "kid": "kernel", "precision": "precision_recall", "recall": "precision_recall",
    "inception_score": "score",
}  # fmt: skip
"""Metric of Inception's features -> what computes it."""
OF_PIXELS = ("frechet", "kernel")


def measurer(experiment: Experiment) -> "Distance | Scored":
    """What measures the metric that a run asks for. Raises UserError where it cannot be measured."""
    metric = experiment.checkpoint.best.metric
    return Distance(experiment) if metric in OF_INCEPTION or metric in OF_PIXELS else Scored(experiment)


class Distance:
    """A distance of samples to a set of pictures."""

    def __init__(self, experiment: Experiment) -> None:
        best = experiment.checkpoint.best
        self.experiment, self.best = experiment, best
        if best.metric in OF_INCEPTION and not best.inception:
            raise UserError(
                f"checkpoint.best.metric {best.metric!r} is of Inception's features: name the file of its weights with "
                f"--checkpoint.best.inception, or choose {' or '.join(OF_PIXELS)} (of pooled pixels)."
            )
        self.extractor: Extractor = PooledPixels()
        if best.metric in OF_INCEPTION:
            self.extractor = Inception(best.inception, best.preprocessing, _kinds(best.metric))
        _ = self.extractor.label  # reads the weights: a wrong file is refused before the first step
        self.real = distance.reference_of(best.against, experiment.data, image_of(experiment.model))
        if self.real.pictures is None:
            if OF_INCEPTION.get(best.metric, best.metric) in ("kernel", "precision_recall"):
                raise UserError(
                    f"checkpoint.best.metric {best.metric!r} compares pictures; {best.against!r} has moments."
                )
            if not self.real.published.of(self.extractor.label):
                raise UserError(f"{best.against!r} holds no statistics by {self.extractor.label}.")
        self.given = conditions_of(experiment, experiment.validation.split, best.count, PREVIEW_SEED)
        self.known: FeatureSet | None = None

    def value(self, params: Params, step: int) -> float:
        """The metric of `count` samples."""
        e, best = self.experiment, self.best
        self.known = self.known or self.real.features(self.extractor, cache_folder(), e.batch_size, show=False)
        made = SampledPictures(
            e, params, self.given, best.count, e.batch_size, PREVIEW_SEED, e.preview.plan, f"step {step}"
        )
        measures = Measures((OF_INCEPTION.get(best.metric, best.metric),), intervals=False)
        with tempfile.TemporaryDirectory() as folder:
            found = distance.features(made, self.extractor, Path(folder), e.batch_size, show=False)
            rows = compare(self.known, found, self.extractor.label, measures)
        return _of(rows, best.metric)


class Scored:
    """A score of samples, as an evaluation computes it."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        model: Any = experiment.model
        image_of(model)
        self.scores = ev.scores_for(experiment.scores, experiment.data, model)
        if not self.scores:
            raise UserError(f"No score suits this run, so checkpoint.best.metric {self.metric!r} cannot be measured.")
        self.examples = held_out_pipeline(experiment, experiment.checkpoint.best.count, packed=False).batch(0).arrays
        _, (name,) = model.request((), ())
        self._scored(name, np.asarray(self.examples[name]))  # an unknown metric is refused before the first step

    @property
    def metric(self) -> str:
        """Its name in rows."""
        return self.experiment.checkpoint.best.metric

    def value(self, params: Params, step: int) -> float:
        """The metric of `count` samples."""
        e, model, count = self.experiment, self.experiment.model, self.experiment.checkpoint.best.count
        fields, (name,) = model.request((), ())
        given = {field: self.examples[field] for field in fields}
        made = generate_many(
            model, params, given, (name,), count, PREVIEW_SEED, e.preview.plan, e.batch_size, e.rules
        )  # fmt: skip
        check_samples(made)
        return self._scored(name, image_of(model).from_model(made[name]))

    def _scored(self, name: str, made: np.ndarray) -> float:
        model, split = self.experiment.model, self.experiment.validation.split
        given = {field: self.examples[field] for field in model.request((), ())[0]}
        samples = ev.Samples(split, model, given, name, np.asarray(self.examples[name]), made)
        return _of(ev.rows_of(samples, self.scores), self.metric)


def _of(rows: list[dict[str, Any]], metric: str) -> float:
    found = {row["metric"]: float(row["value"]) for row in rows}
    if metric not in found:
        raise UserError(f"checkpoint.best.metric {metric!r} is unknown; this run measures {', '.join(found)}.")
    return found[metric]


def _kinds(metric: str) -> tuple[str, ...]:
    return {"sfid": ("pool", "spatial"), "inception_score": ("pool", "logits")}.get(metric, ("pool",))
