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

DATA = "data.json"
"""File of a run directory: the parts of its training set (`Pipeline.described`). Version 0.2 had them in
environment.json, under `data`."""
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


def check_same_data(described: list[dict[str, Any]], run_dir: Path, moved: bool = True) -> None:
    """Raises UserError for data other than the run's: another number, other names or sizes, another first example.

    The first example is looked at where the set has no digest and the configuration names another place: another
    machine may round an example that is computed. Runs of earlier versions have no record and are not checked.
    """
    before = (read_json(run_dir / DATA) or {}).get("parts") or (read_json(run_dir / "environment.json") or {}).get(
        "data"
    )
    if not isinstance(before, list):
        return
    there = len(before) == len(described) and all(isinstance(row, dict) for row in before)
    pairs = zip(before, described, strict=True) if there else [({}, {"name": "another number of sets"})]
    if found := [said for old, new in pairs if (said := _data_changed(old, new, moved))]:
        raise UserError(
            f"{str(run_dir)!r} was trained on other examples: {'; '.join(found)}. Point the data set to what the run "
            "began with, or choose another --run-dir."
        )


def _data_changed(old: dict[str, Any], new: dict[str, Any], moved: bool) -> str:
    """How a part of a data set differs from that of the run; empty if it does not."""
    if old.get("examples") != new.get("examples"):
        return f"{new['name']} had {old.get('examples')} records, now {new.get('examples')}"
    both = "digest" in old and "digest" in new
    if both and old["digest"] != new["digest"]:
        return f"names or sizes of the {new['examples']} records of {new['name']} changed"
    if "beside" in old and "beside" in new and old["beside"] != new["beside"]:
        return f"names or sizes of the captions, or of other files beside the records of {new['name']}, changed"
    if not both and old.get("name") != new["name"]:
        return f"{old.get('name')} then, {new['name']} now"
    if moved and not both and old.get("first") != new.get("first"):
        return f"the first record of {new['name']} is another one"
    return ""


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
