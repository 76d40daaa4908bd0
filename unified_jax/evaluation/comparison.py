"""The numbers of two sets of features, each with its extractor, set, n and interval.

    fid, frechet        Frechet distance of the pooled features: `fid` if the extractor is Inception's graph of 2015
    sfid                of the spatial features
    kid, kernel         squared MMD (papers often print 1000 times it)
    precision, recall   of manifolds of 3 neighbours
    inception_score     of the samples alone

An interval of a Frechet or kernel distance is that of the distance between the distributions (`intervals`). Precision
and recall have Wilson's, for the manifold of the other set as it is; the Inception score Student's over its splits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from unified_jax.errors import UserError
from unified_jax.evaluation import intervals
from unified_jax.evaluation.distances import Rule, frechet, frechet_distance, inception_score, kernel_distance
from unified_jax.evaluation.feature_sets import LOGITS, POOL, SPATIAL, FeatureSet
from unified_jax.evaluation.neighbours import precision_recall
from unified_jax.evaluation.statistics import student_mean, wilson_interval

Row = dict[str, Any]
METRICS = ("frechet", "spatial", "kernel", "precision_recall", "score")
OF_TORCH_FIDELITY = 2020
"""That program's seed."""
Begin = Callable[[str, int], Callable[[int], Any]]
"""`begin(metric, parts)` before a long one; what it returns is called with the number of parts that were done."""


@dataclass(frozen=True)
class Measures:
    """What is computed, and how papers differ in it."""

    metrics: tuple[str, ...] = METRICS
    """Of 'frechet', 'spatial' (sFID), 'kernel' (KID), 'precision_recall', 'score' (Inception score)."""
    intervals: bool = True
    """Also intervals, which cost some twenty times a distance."""
    neighbours: int = 3
    """Neighbours of precision and recall."""
    subset: int = 1000
    """Vectors of a subset of KID."""
    subsets: int = 100
    """Subsets of KID."""
    rule: Rule = "ours"
    """Who draws the subsets of KID and the splits of the Inception score: 'ours', 'torch_fidelity' or 'clean'."""
    splits: int = 10
    """Splits of the Inception score: 10 as torch-fidelity, or as many as give 5000 images each as ADM."""
    seed: int = 0
    """Of KID's subsets, and of intervals."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics:
            raise ValueError(f"Metrics are some of {', '.join(METRICS)}; found {', '.join(unknown) or 'none'}.")
        if min(self.neighbours, self.subset - 1, self.subsets, self.splits) < 1:
            raise ValueError(f"neighbours, subsets and splits must be at least 1 and subset 2, found {self}.")


def compare(
    real: FeatureSet,
    made: FeatureSet,
    label: str,
    measures: Measures = Measures(),
    begin: Begin = lambda metric, total: lambda done: None,
) -> list[Row]:
    """The rows {metric, value, low, high, chance, n, n_reference, extractor, reference}.

    `label` is the extractor's. Raises UserError for sets that cannot be compared.
    """
    fid = label.startswith("inception (fid")
    base = {"chance": None, "n": made.count, "n_reference": real.count or None, "extractor": label}
    base |= {"reference": real.name}
    rows: list[Row] = []
    for metric in measures.metrics:
        rows += [row | base for row in _rows(metric, real, made, measures, fid, begin)]
    return rows


def _rows(metric: str, real: FeatureSet, made: FeatureSet, measures: Measures, fid: bool, begin: Begin) -> list[Row]:
    if metric == "frechet":
        return _frechet("fid" if fid else "frechet", POOL, real, made, measures, begin)
    if metric == "spatial":
        return _frechet("sfid", SPATIAL, real, made, measures, begin)
    if metric == "score":
        logits = made.vectors(LOGITS)
        return [] if logits is None else [_score(logits, measures)]
    a, b = real.vectors(POOL), made.vectors(POOL)
    if a is None or b is None:
        return []  # statistics have no vectors
    if metric == "precision_recall":
        return _manifolds(a, b, measures.neighbours, begin)
    seed = OF_TORCH_FIDELITY if measures.rule == "torch_fidelity" else measures.seed
    # The published programs draw the samples' subset first (torch-fidelity), or the reference's second (clean-fid).
    pair = (a, b) if measures.rule == "ours" else (b, a)
    value = kernel_distance(*pair, measures.subset, measures.subsets, seed, measures.rule)
    interval = intervals.kernel_interval(a, b, measures.seed) if measures.intervals else intervals.NONE
    return [_row("kid" if fid else "kernel", value, interval)]


def _frechet(
    name: str, kind: str, real: FeatureSet, made: FeatureSet, measures: Measures, begin: Begin
) -> list[Row]:  # fmt: skip
    a, b = real.vectors(kind), made.vectors(kind)
    if a is not None and b is not None and not real.published(kind):
        report = begin(name, intervals.GROUPS + intervals.DIVISIONS if measures.intervals else 0)
        found = intervals.frechet_interval(a, b, measures.seed, report) if measures.intervals else intervals.NONE
        return [_row(name, frechet(a, b), found)]
    known, ours = real.moments(kind), made.moments(kind)
    if known is None or ours is None:
        return []
    if known.mean.shape != ours.mean.shape:
        raise UserError(
            f"The statistics of {real.name} are of {len(known.mean)} features, those of {made.name} of "
            f"{len(ours.mean)}: another extractor made them."
        )
    report = begin(name, intervals.GROUPS if measures.intervals else 0)
    value = frechet_distance(known.mean, known.cov, ours.mean, ours.cov)
    if b is None or not measures.intervals:
        return [_row(name, value, intervals.NONE)]
    return [_row(name, value, intervals.against_moments(b, (known.mean, known.cov), measures.seed, report))]


def _manifolds(a: np.ndarray, b: np.ndarray, neighbours: int, begin: Begin) -> list[Row]:
    if min(len(a), len(b)) <= neighbours:
        return []
    rates = precision_recall(a, b, neighbours, begin("precision and recall", 2 * (len(a) + len(b))))
    parts = zip(("precision", "recall"), rates, (len(b), len(a)), strict=True)
    return [_row(name, rate, intervals.Interval(rate, *wilson_interval(rate, n))) for name, rate, n in parts]


def _score(logits: np.ndarray, measures: Measures) -> Row:
    n, splits = len(logits), min(measures.splits, len(logits))
    order = np.arange(n)
    if measures.rule == "torch_fidelity":  # it shuffles the samples before it splits them
        order = np.random.RandomState(OF_TORCH_FIDELITY).permutation(n)
    parts = []
    for rows in (order[i * n // splits : (i + 1) * n // splits] for i in range(splits)):
        x = np.asarray(logits[rows], np.float64)
        p = np.exp(x - x.max(1, keepdims=True))
        parts.append(inception_score(p / p.sum(1, keepdims=True), 1)[0])
    found = student_mean(parts)
    low, high = (found.low, found.high) if splits > 1 else (math.nan, math.nan)
    return _row("inception_score", found.value, intervals.Interval(found.value, low, high))


def _row(metric: str, value: float, interval: intervals.Interval) -> Row:
    low, high = (None if math.isnan(v) else v for v in (interval.low, interval.high))
    return {"metric": metric, "value": value, "low": low, "high": high}
