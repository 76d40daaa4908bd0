"""The results of a study: one row per arm and metric, with the claims that the statistics support.

Means are over seeds, with Student-t intervals. Differences to the base pair common seeds; their p-values are
Holm-corrected over all comparisons of the study, and fewer than five pairs support no claim
(`evaluation.statistics`).
"""

import csv
import io
import math
from dataclasses import dataclass, is_dataclass
from typing import Any

from unified_jax.config import at_default, fields_of
from unified_jax.evaluation.statistics import (
    FEWEST,
    SIGNIFICANCE,
    Mean,
    claims,
    holm,
    paired_p,
    slope_interval,
    student_mean,
)
from unified_jax.studies.cells import Arm
from unified_jax.studies.study import Change, Metric, Study


@dataclass(frozen=True)
class Row:
    """One arm under one metric."""

    arm: str
    metric: Metric
    mean: Mean | None
    """None where no cell has a value."""
    difference: Mean | None
    """Difference to the base over paired seeds; None for the base itself."""
    p: float
    """p-values, uncorrected and corrected, on which claims rest."""
    p_corrected: float
    seeds: tuple[int, ...]
    """Seeds that have a value."""
    failed: tuple[str, ...]
    """`seed N: why` of the others."""

    @property
    def verdict(self) -> str:
        """The claim as text."""
        if self.arm == "base":
            return ""
        if self.difference is None:
            return "no values"
        if self.difference.n < FEWEST:
            return f"no claim: {self.difference.n} of at least {FEWEST} seeds"
        if not claims(self.p_corrected, self.difference.n):
            return "no difference shown"
        up = self.difference.value > 0
        return "better" if up == (self.metric.better == "higher") else "worse"


def summarize(study: Study, arms: tuple[Arm, ...], records: list[dict[str, Any]]) -> list[Row]:
    """Rows by metric, the base first."""
    by_arm = {arm.name: [r for r in records if r["arm"] == arm.name] for arm in arms}
    drafts = [
        _draft(arm, metric, by_arm[arm.name], by_arm["base"], arms[0].seeds)
        for metric in study.metrics
        for arm in arms
        if metric in study.metrics_of(arm.name)
    ]
    compared = [row for row in drafts if row.arm != "base"]
    corrected = dict(zip(map(id, compared), holm([row.p for row in compared]), strict=True))
    return [Row(**{**vars(row), "p_corrected": corrected.get(id(row), 1.0)}) for row in drafts]


def _draft(
    arm: Arm, metric: Metric, own: list[dict[str, Any]], base: list[dict[str, Any]], base_seeds: tuple[int, ...]
) -> Row:
    mine = {r["seed"]: r["values"][metric.title] for r in own if not r["failed"]}
    theirs = {r["seed"]: r["values"][metric.title] for r in base if not r["failed"]}
    pairs = [(mine[a], theirs[b]) for a, b in zip(arm.seeds, base_seeds, strict=True) if a in mine and b in theirs]
    differences = [a - b for a, b in pairs]
    compared = arm.name != "base" and differences
    return Row(
        arm.name,
        metric,
        student_mean(list(mine.values())) if mine else None,
        student_mean(differences) if compared else None,
        paired_p(differences) if compared else 1.0,
        1.0,
        tuple(mine),
        tuple(f"seed {r['seed']}: {r['failed']}" for r in own if r["failed"]),
    )


HEAD = (
    *("arm", "metric", "better", "seeds", "mean", "low", "high", "difference", "difference_low", "difference_high"),
    *(
        "pairs",
        "p",
        "p_holm",
        "verdict",
        "failed",
        "steps",
        "parameters",
        "flops",
        "config_hash",
        "seed_list",
        "commit",
    ),
    "device",
)


def as_csv(rows: list[Row], arms: tuple[Arm, ...], records: list[dict[str, Any]]) -> str:
    """Everything, a line per row; p-values and intervals in full."""
    by_name = {arm.name: arm for arm in arms}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEAD)
    for row in rows:
        arm = by_name[row.arm]
        mean = row.mean or Mean(math.nan, math.nan, math.nan, 0)
        d = row.difference or Mean(math.nan, math.nan, math.nan, 0)
        writer.writerow([
            row.arm, row.metric.title, row.metric.better, mean.n, *map(_number, mean[:3]), *map(_number, d[:3]),
            d.n, _number(row.p), _number(row.p_corrected), row.verdict, "; ".join(row.failed),
            arm.experiment.steps, arm.parameters, _number(arm.flops), arm.hash, " ".join(map(str, row.seeds)),
            " ".join(told(records, "commit")), " ".join(told(records, "device")),
        ])  # fmt: skip
    return out.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.10g}"


def told(records: list[dict[str, Any]], name: str) -> list[str]:
    """The different values of a field of the records."""
    return sorted({str(r[name]) for r in records})


def table_head() -> tuple[str, ...]:
    """Columns of `table_cells`."""
    return "arm", "mean [95 % interval]", "seeds", "difference to base [95 % interval]", "p, Holm", "verdict"


def table_cells(row: Row) -> tuple[str, ...]:
    """A row as formatted text."""
    bad = f" ({len(row.failed)} failed)" if row.failed else ""
    compared = row.difference is not None and row.difference.n > 1
    return (
        row.arm,
        span(row.mean),
        f"{len(row.seeds)}{bad}",
        span(row.difference, sign=True) if row.arm != "base" else "",
        f"{row.p_corrected:.3g}" if compared else "",
        row.verdict,
    )


def span(mean: Mean | None, sign: bool = False) -> str:
    """`value [low, high]` to four digits."""
    if mean is None:
        return "-"
    plus = "+" if sign else ""
    interval = f" [{mean.low:{plus}.4g}, {mean.high:{plus}.4g}]" if mean.n > 1 else ""
    return f"{mean.value:{plus}.4g}{interval}"


def match(arms: tuple[Arm, ...]) -> list[tuple[str, ...]]:
    """Arm, parameters, steps, FLOPs, each with its ratio to the base's: the match of the budget."""
    base, rows = arms[0], []
    for arm in arms:
        ratio = (arm.parameters / base.parameters, arm.flops / base.flops)
        rows.append((
            arm.name, f"{arm.parameters:,} ({100 * (ratio[0] - 1):+.1f} %)", f"{arm.experiment.steps:,}",
            f"{arm.flops:.4g} ({100 * (ratio[1] - 1):+.2f} %)", arm.hash,
        ))  # fmt: skip
    return rows


def changes(study: Study) -> list[tuple[str, ...]]:
    """Arm and its changes, as text."""
    common = _words(study.common)
    return [("base", f"{study.base}{f' with {common}' if common else ''}")] + [
        (v.name, _words(v.change) or "nothing, other seeds") for v in study.variants
    ]


def _words(change: Change) -> str:
    if callable(change):
        return f"function {getattr(change, '__name__', 'of the experiment')}"
    return ", ".join(f"{name} = {_brief(value)}" for name, value in change.items())


def _brief(value: Any) -> str:
    """A value on one line; of a dataclass the fields that are not the class's defaults."""
    if isinstance(value, tuple):
        return f"({', '.join(_brief(one) for one in value)})"
    if not is_dataclass(value) or isinstance(value, type):
        return str(value)
    set_to = {f.name: getattr(value, f.name) for f in fields_of(value) if not at_default(value, f)}
    told = [f"{name}={_brief(one)}" for name, one in set_to.items()]
    return f"{type(value).__name__}({', '.join(told)})"


def power_laws(study: Study, rows: list[Row], arms: tuple[Arm, ...]) -> list[str]:
    """A sentence per metric: the exponent over the arms' training FLOPs, where three arms have a positive mean."""
    if not study.power_law:
        return []
    flops, found = {arm.name: arm.flops for arm in arms}, []
    for metric in study.metrics:
        means = [(flops[r.arm], r.mean.value) for r in rows if r.metric == metric and r.mean and r.mean.value > 0]
        if len({x for x, _ in means}) < 3:
            found.append(f"{metric.title}: no power law, it needs three arms of different FLOPs.")
            continue
        fit = slope_interval([math.log(x) for x, _ in means], [math.log(y) for _, y in means])
        found.append(f"{metric.title} ~ FLOPs^{span(fit)}, fitted over the means of {fit.n} arms.")
    return found


MATCH_HEAD = ("arm", "parameters", "steps", "training FLOPs a cell", "config hash (seed 0)")
NOTE = (
    f"Means over seeds with Student-t 95 % intervals. Differences pair the seeds; p-values of paired t-tests, "
    f"Holm-corrected over all comparisons of the study. A difference is claimed below p = {SIGNIFICANCE} and from "
    f"{FEWEST} paired seeds on."
)
