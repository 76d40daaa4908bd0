"""Whether a configuration may resume a run: everything that determines the numbers must stay.

`FREE` lists what may change: where and when things are computed and written. Other changes would make a run that is
neither the old one nor a new one. The saved configuration is compared as plain JSON; nothing of it is executed.
"""

import dataclasses
from pathlib import Path
from typing import Any

from unified_jax.config import class_path, fields_of, to_plain
from unified_jax.errors import UserError
from unified_jax.moved import present_path
from unified_jax.runs.code import CODE, changed_code
from unified_jax.runs.directory import read_config, read_json
from unified_jax.training.experiment import Experiment

DATA = "data"
"""Entry of environment.json: the training examples of a run (`Pipeline.described`)."""
FREE = (
    *("mesh", "rules", "accumulate", "log_every", "gradients_every", "checkpoint", "preview", "validation", "evaluate"),
    "scores",
    "non_finite",
)
"""Fields of an experiment that may change when a run is resumed; also `steps` with a constant learning rate."""


def check_same_run(experiment: Experiment, run_dir: Path) -> None:
    """Raises UserError listing the fields in which `experiment` differs from the run that `run_dir` holds."""
    saved = read_config(run_dir)
    constant, before = experiment.optimizer.schedule == "constant", saved.get("steps")
    longer = isinstance(before, int) and experiment.steps > before
    free = (*FREE, "steps") if constant or longer else FREE
    if present_path(str(saved.get("class"))) != class_path(type(experiment)):
        raise UserError(f"{run_dir / 'config.json'} does not describe an experiment.")
    kept = {name: value for name, value in saved.items() if name not in free}
    changed = [line for line in differences(experiment, kept) if line.split(" ")[0].split(".")[0] not in free]
    if changed:
        hint = ""
        if any(line.startswith("steps ") for line in changed):
            hint = f" (steps may only grow where optimizer.schedule is {experiment.optimizer.schedule}, not constant)"
        raise UserError(
            f"{str(run_dir)!r} holds a run with another {'; '.join(changed)}{hint}. Resume it with its own settings, "
            "or choose another --run-dir for a new run (--init-from starts it from this one's parameters)."
        )


def branch_of(experiment: Experiment, run_dir: Path) -> tuple[int, int] | None:
    """(steps before, steps now) if a run gets more steps, which change its learning-rate schedule."""
    before = read_config(run_dir).get("steps")
    longer = isinstance(before, int) and experiment.steps > before and experiment.optimizer.schedule != "constant"
    return (before, experiment.steps) if isinstance(before, int) and longer else None


def data_moved(experiment: Experiment, run_dir: Path) -> bool:
    """Whether the run's data are at another place now (`DataSet`'s `places`)."""
    return read_config(run_dir).get("data") != to_plain(experiment.data)


def check_same_data(described: list[dict[str, Any]], run_dir: Path) -> None:
    """Raises UserError for data other than the run's: another count, or another first example.

    Looked at where the configuration names another place: another machine may round an example that is computed.
    Runs of earlier versions have no record and are not checked.
    """
    before = (read_json(run_dir / "environment.json") or {}).get(DATA)
    if not isinstance(before, list) or before == described:
        return
    known = {row.get("name"): row for row in before if isinstance(row, dict)}
    other = [row["name"] for row in described if known.get(row["name"]) != row] or sorted(map(str, known))
    raise UserError(
        f"{str(run_dir)!r} was trained on other examples of {', '.join(other)}: their number or the first one differs. "
        "Point the data set to the folder that the run began with, or choose another --run-dir."
    )


def differences(ours: Any, saved: Any, path: str = "") -> list[str]:
    """Lines `field (saved -> ours)`. A field that the saved configuration lacks is taken at its default."""
    if isinstance(ours, tuple) and isinstance(saved, list) and len(ours) == len(saved):
        pairs = enumerate(zip(ours, saved, strict=True))
        return [line for i, (one, other) in pairs for line in differences(one, other, f"{path}.{i}")]
    if not dataclasses.is_dataclass(ours) or isinstance(ours, type):
        plain = to_plain(ours)
        return [] if _same(plain, saved) else [f"{path} ({_short(saved)} -> {_short(plain)})"]
    name = class_path(type(ours))
    if not isinstance(saved, dict) or present_path(str(saved.get("class"))) != name:
        there = saved.get("class", saved) if isinstance(saved, dict) else saved
        return [f"{path} ({_short(there)} -> {name.rpartition('.')[2]})"]
    found = []
    fields = {field.name: field for field in fields_of(ours)}
    for key, field in fields.items():
        if key in getattr(type(ours), "places", ()):
            continue
        where = f"{path}.{key}".lstrip(".")
        found += differences(getattr(ours, key), saved[key] if key in saved else _default(field), where)
    gone = sorted(set(saved) - set(fields) - {"class"})
    return found + [f"{path}.{key}".lstrip(".") + f" ({_short(saved[key])} -> no such field)" for key in gone]


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default is not dataclasses.MISSING:
        return to_plain(field.default)
    return to_plain(field.default_factory()) if field.default_factory is not dataclasses.MISSING else None


def _same(a: Any, b: Any) -> bool:
    """Equal in value and kind (JSON's true is not 1; 1 and 1.0 are the same number)."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value.rpartition(".")[2] if value.startswith("unified_jax.") else value[:60]
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check_same_code(experiment: Experiment, run_dir: Path, code_changed: bool) -> None:
    """Raises UserError if custom classes differ from those at the run's start, unless that is allowed."""
    changed = changed_code(run_dir, experiment)
    if changed and not code_changed:
        raise UserError(
            f"{str(run_dir)!r} was begun with other code in {', '.join(changed)} (kept in {CODE}/). Go back "
            "to that code, choose another --run-dir, or continue with the new code by --code-changed (recorded)."
        )
