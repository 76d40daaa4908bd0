"""A study: a base recipe, variants of it, seeds, a budget, metrics.

    from unified_jax.studies.study import Study, Variant

    def study() -> Study:
        return Study("quickstart", (Variant("slower", {"optimizer.learning_rate": 1e-3}),), seeds=5)

The base is always an arm of its own, named "base"; every arm is trained with every seed and compared with the base.
A field is named as on the command line, with `_` or `-`; an item of a tuple by its index (`ema.0.decay`).
"""

import ast
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from unified_jax.config import fields_of, fits, hints_of
from unified_jax.errors import UserError, meant
from unified_jax.precision import check_seed
from unified_jax.runs.recipe import CONFIGS, load_built, load_recipe
from unified_jax.training.experiment import Experiment

STUDIES = CONFIGS / "studies"

Change = Mapping[str, Any] | Callable[[Experiment], Experiment]
"""Field -> value, or a function of the experiment."""


@dataclass(frozen=True)
class Variant:
    """One arm: the base with a change."""

    name: str
    change: Change = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    """Its own seeds, paired with the base's in order; default: the study's."""
    share: float = 1.0
    """Share of the budget: of the parameters if `Budget.adjust` searches them, else of the FLOPs or seconds."""


@dataclass(frozen=True)
class Budget:
    """What all arms share with the base: steps, FLOPs or seconds."""

    by: Literal["steps", "flops", "seconds"] = "steps"
    """Equal steps (each recipe's), equal training FLOPs, or equal measured seconds."""
    amount: float = 0.0
    """FLOPs or seconds per cell; 0: the base's."""
    adjust: str = ""
    """An integer field of the model, searched to match the base's parameter count; "" keeps sizes."""
    multiple: int = 8
    """Values of `adjust` are multiples of this."""

    def __post_init__(self) -> None:
        if self.amount < 0 or self.multiple < 1:
            raise UserError(f"A budget's amount must not be negative and multiple at least 1, found {self}.")


@dataclass(frozen=True)
class Metric:
    """A metric of the comparison: "loss", "validation/loss", or a metric of `evaluate` (a row of evaluation.json)."""

    name: str
    better: Literal["higher", "lower"] = "higher"
    split: str = "test"
    given: tuple[str, ...] = ()
    """Of a matrix: the given modalities; () takes any row of the metric."""
    wanted: tuple[str, ...] = ()
    """Of a matrix: the generated modalities."""
    arms: tuple[str, ...] = ()
    """Variants compared by it with the base; (): all."""

    @property
    def evaluated(self) -> bool:
        """Whether it needs samples."""
        return self.name not in ("loss", "validation/loss")

    @property
    def title(self) -> str:
        """Its title in tables."""
        pair = f" {'+'.join(self.given)} to {'+'.join(self.wanted)}" if self.given or self.wanted else ""
        split = "" if self.split == "test" or not self.evaluated else f", {self.split}"
        return f"{self.name.replace('_', ' ')}{pair}{split}"


@dataclass(frozen=True)
class Study:
    """An ablation study."""

    base: str
    """A recipe: a name under configs/ or a path."""
    variants: tuple[Variant, ...]
    seeds: int | tuple[int, ...] = 5
    """Number of seeds (0, 1, ...), or the seeds."""
    common: Change = field(default_factory=dict)
    """A change of all arms, including the base."""
    budget: Budget = Budget()
    metrics: tuple[Metric, ...] = (Metric("validation/loss", "lower"),)
    samples: int = 256
    """Samples per cell and split, where a metric needs them."""
    together: Literal["auto", "never", "always"] = "auto"
    """Train an arm's seeds in one program: auto (where measured to be faster), never, or always."""
    init_from: str = ""
    """A run that every cell starts from, as with --init-from; "": none."""
    trust: bool = False
    """Import the custom code that the run of `init_from` keeps."""
    power_law: bool = False
    """Fit every metric's means over the arms as a power law of the training FLOPs."""
    about: str = ""
    """A sentence for the report."""

    def __post_init__(self) -> None:
        names = ["base", *(v.name for v in self.variants)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"A study's arms need distinct names; found {', '.join(twice)} twice ('base' is taken).")
        if bad := [name for name in names if not name or name.startswith(".") or "/" in name or "|" in name]:
            raise UserError(f"An arm's name must not be empty, start with a dot or hold '/' or '|'; found {bad[0]!r}.")
        if not self.variants or not self.metrics:
            raise UserError("A study needs at least one variant and one metric.")
        if not self.seed_list or len(set(self.seed_list)) < len(self.seed_list):
            raise UserError(f"A study needs seeds, each once; found {self.seeds}.")
        for seed in (*self.seed_list, *(seed for v in self.variants for seed in v.seeds)):
            check_seed(seed)
        named = {arm for m in self.metrics for arm in m.arms}
        if strange := sorted(named - set(names)):
            raise UserError(f"A metric names the arm {strange[0]!r}; the arms are {', '.join(names)}.")
        for v in self.variants:
            if not 0 < v.share <= 1:
                raise UserError(f"The share of {v.name!r} must lie in (0, 1], found {v.share}.")
            if v.seeds and (len(v.seeds) != len(self.seed_list) or len(set(v.seeds)) < len(v.seeds)):
                raise UserError(
                    f"{v.name!r} has {len(v.seeds)} seeds of its own, expected {len(self.seed_list)}, each once."
                )
        if self.init_from and self.budget.adjust:
            raise UserError(
                f"A study that starts from a run keeps its sizes; leave out init_from or adjust={self.budget.adjust!r}."
            )
        if self.samples < 2:
            raise UserError(f"samples must be at least 2, found {self.samples}.")

    def metrics_of(self, arm: str) -> tuple[Metric, ...]:
        """The metrics of an arm."""
        return tuple(m for m in self.metrics if not m.arms or arm in (*m.arms, "base"))

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The base's seeds."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    @property
    def arms(self) -> tuple[Variant, ...]:
        """The base and the variants, each with its seeds."""
        return tuple(dataclasses.replace(v, seeds=v.seeds or self.seed_list) for v in (Variant("base"), *self.variants))


def study_names() -> list[str]:
    """The studies of this package."""
    return sorted(path.stem for path in STUDIES.glob("*.py"))


def load_study(name: str) -> Study:
    """The study of a file. Raises UserError for an unknown study, or a file without one."""
    return load_built(name, STUDIES, ("study", "studies"), "study", Study)


def experiments(study: Study, settings: Mapping[str, Any]) -> dict[str, Experiment]:
    """Arm -> its experiment with seed 0, before the budget. `settings` are the command line's, for all arms.

    Raises UserError for a change of an unknown field, with a value of another type, or without an Experiment.
    """
    base = apply_change(apply_change(load_recipe(study.base), study.common, "common"), settings, "--set")
    found = {arm.name: apply_change(base, arm.change, arm.name) for arm in study.arms}
    for name, experiment in found.items():
        if any(m.name == "validation/loss" for m in study.metrics) and not experiment.validation.every:
            raise UserError(f"{name}: the metric validation/loss needs validation.every above 0.")
    return {name: dataclasses.replace(experiment, seed=0) for name, experiment in found.items()}


def apply_change(experiment: Experiment, change: Change, name: str) -> Experiment:
    """The experiment with a change of the arm `name`."""
    if callable(change):
        try:
            built = change(experiment)
        except UserError:
            raise
        except Exception as error:  # a user's function
            raise UserError(f"The change of {name!r} fails: {type(error).__name__}: {error}") from error
        if not isinstance(built, Experiment):
            raise UserError(f"The change of {name!r} must return an Experiment, found {type(built).__name__}.")
        return built
    try:
        return set_fields(experiment, change)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def set_fields(whole: Any, change: Mapping[str, Any]) -> Any:
    """A copy of a graph of dataclasses and tuples with fields replaced, all at once (only the result is checked).

    Raises UserError if that fails.
    """
    return _set(whole, {tuple(path.replace("-", "_").split(".")): value for path, value in change.items()}, "")


def _set(whole: Any, change: dict[tuple[str, ...], Any], where: str) -> Any:
    """`whole` with the values of paths below `where`."""
    if () in change:
        return change[()]
    parts: dict[str, dict[tuple[str, ...], Any]] = {}
    for path, value in change.items():
        parts.setdefault(path[0], {})[path[1:]] = value
    if isinstance(whole, tuple):
        if strange := [part for part in parts if not part.isdigit() or int(part) >= len(whole)]:
            raise UserError(f"{where}{strange[0]} is not an index of a tuple of {len(whole)}.")
        return tuple(_set(x, parts[str(i)], f"{where}{i}.") if str(i) in parts else x for i, x in enumerate(whole))
    _check_fields(whole, parts, where)
    replace: Any = dataclasses.replace
    values = {name: _set(getattr(whole, name), below, f"{where}{name}.") for name, below in parts.items()}
    try:
        return replace(whole, **values)
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        told = ", ".join(f"{where}{name}" for name in values)
        raise UserError(f"{told}: {error}") from error


def _check_fields(whole: Any, parts: dict[str, dict[tuple[str, ...], Any]], where: str) -> None:
    """Raises UserError for an unknown field, or a value of another type."""
    holds = dataclasses.is_dataclass(whole) and not isinstance(whole, type)
    fields, kind = [f.name for f in fields_of(whole)] if holds else [], type(whole)
    for name, below in parts.items():
        if name not in fields:
            near = meant(name, fields, where)
            there = near if near != "." else f"; its fields: {', '.join(fields) or 'none'}."
            raise UserError(f"{where}{name}: {kind.__name__} has no field {name!r}{there}")
        hint = hints_of(kind).get(name, Any)
        if hint is int and isinstance(value := below.get(()), float) and value.is_integer():
            below[()] = int(value)  # 1e4 for an integer field
        if () in below and not fits(below[()], hint):
            expected = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
            raise UserError(f"{where}{name}: expected {expected}, found {below[()]!r}.")


def _is_finite(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def parse_settings(texts: tuple[str, ...]) -> dict[str, Any]:
    """`FIELD=VALUE` as on --set; a value that is not a Python literal is text."""
    found: dict[str, Any] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark or not name:
            raise UserError(f"--set {text!r}: expected FIELD=VALUE, such as optimizer.learning_rate=1e-3.")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found[name] = value
        if not _is_finite(found[name]) or value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):
            raise UserError(f"--set {text!r}: expected a finite number.")
    return found
