"""Stages of a run on disk (`models.stages`): their parameters are copied at its start, and found again by checksum.

    RUN/stages/NAME.safetensors   the parameters, in our layout and the stage's dtype
    RUN/stages/stages.json        {NAME: {source, step, checksum, file}}

A file as a source is hard-linked where the file system allows it, else copied. With `keep="reference"` the run holds
only its path and checksum. A checksum is over names, shapes and values: `--stage NAME=PATH` may point to any file or
run that holds the same parameters.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unified_jax.errors import UserError
from unified_jax.hosts import lay, together
from unified_jax.interop import files, names
from unified_jax.models.stages import STAGES, START, Narrows, Published, Serves, Stage, own
from unified_jax.runs import directory as runs
from unified_jax.runs.checksums import content
from unified_jax.runs.latent_record import check_measured, measured
from unified_jax.sharding import Rules, parameter_shardings
from unified_jax.typing import Params

RECORD = "stages.json"

Places = Mapping[str, Path]
"""Where stages are found instead of at their source: {NAME: a file or a run}."""


NOWHERE: Places = {}
"""Every stage is at its source, or in the run's folder."""


class Held(NamedTuple):
    """The parameters of a stage on the host."""

    arrays: dict[str, np.ndarray]
    said: dict[str, Any]
    """Their entry in stages.json: source and step."""
    file: Path | None
    """The file that holds exactly these."""


class Loading(NamedTuple):
    """Where and how stages are loaded."""

    mesh: Mesh
    rules: Rules
    read_run: Callable[[Path, str], tuple[Params, int]]
    """(run directory, EMA) -> (all parameters of its model, step)."""
    places: Places = NOWHERE

    def path(self, one: Stage) -> Path:
        """The source of a stage, or the place that was named for it."""
        return self.places.get(one.name, Path(one.source))


def stage(
    name: str, source: str | Path, *, ema: str = "0", dtype: Any = "float32", trust: bool = False,
    statistics: bool = True,
) -> Stage:  # fmt: skip
    """The stage `name` with the model of the run `source`, or what that serves. UserError if there is no run.

    An autoencoder has the scale and shift that were measured in its run (`runs.latents`), unless `statistics` is off.
    """
    model: Any = runs.load_experiment(Path(source), trust).model
    model = model.serves() if isinstance(model, Serves) else model
    return Stage(name, measured(model, Path(source)) if statistics else model, str(source), ema, dtype)


def parse_places(flags: tuple[str, ...]) -> dict[str, Path]:
    """{NAME: path} of the values NAME=PATH of --stage. Raises UserError for anything else, or a name given twice."""
    found: dict[str, Path] = {}
    for flag in flags:
        name, equals, path = flag.partition("=")
        if not (name and equals and path) or name in found:
            raise UserError(f"--stage takes NAME=PATH, each name once; found {flag!r}.")
        found[name] = Path(path)
    return found


def check_places(model: Any, places: Places) -> None:
    """Raises UserError for a place of a stage that the model does not have."""
    there = [one.name for one in model.stages]
    if unknown := sorted(set(places) - set(there)):
        told = f"this run has the stages {', '.join(there)}" if there else "this run has no stages"
        raise UserError(f"--stage {unknown[0]}: {told}.")


def check_sources(model: Any, places: Places) -> None:
    """Raises UserError for a source that is not there, before anything is compiled."""
    check_places(model, places)
    for one in model.stages:
        path = places.get(one.name, Path(one.source))
        network = one.network(model)
        if isinstance(network, Published) and network.finds(str(path)):
            continue
        if one.source != START and not path.is_file() and not (path / "config.json").is_file():
            raise UserError(
                f"The stage {one.name!r} comes from {str(path)!r}, which is neither a run nor a file; train or fetch "
                f"it first, or say where it is with --stage {one.name}=PATH."
            )
        if one.keep == "reference" and not path.is_file():
            raise UserError(
                f"The stage {one.name!r} is kept as a reference to {str(path)!r}, which is no file: write one with "
                "unified-jax convert --from RUN --to FILE.safetensors, or keep a copy."
            )


def kept_places(run_dir: Path, model: Any) -> Places:
    """The files in which a run keeps the stages of its model."""
    folder = run_dir / STAGES
    record = runs.read_json(folder / RECORD) or {}
    return {one.name: folder / str(record[one.name]["file"]) for one in model.stages if one.name in record}


def begin_stages(run_dir: Path, model: Any, whole: Params | None, loading: Loading) -> Params:
    """{name: parameters} of a run that begins, kept in its folder; `whole` is what the run starts from.

    Raises UserError for a source that does not fit.
    """
    folder, found, record = run_dir / STAGES, {}, {}
    together(lambda: _clear(folder, [(one.name, loading.path(one)) for one in model.stages]), by="first")
    known: dict[tuple[Any, ...], str] = {}
    for one in model.stages:
        same = (one.network(model), str(loading.path(one)), one.ema, one.dtype, one.keep)
        if same in known:  # equal ones are loaded once and held once
            other = known[same]
            found[one.name], record[one.name] = found[other], record[other]
            continue
        held = _from_source(one, model, whole, loading)
        found[one.name], known[same] = _laid(one, model, held, loading), one.name
        linked = one.keep == "reference"
        file = held.file.absolute() if linked and held.file else Path(f"{one.name}.safetensors")
        record[one.name] = {**held.said, "checksum": content(held.arrays), "file": str(file)}
        if not linked:
            together(lambda held=held, file=file: _keep(held, folder / file), by="first")
    together(lambda: runs.write_json(folder / RECORD, record), by="first")
    return found


def read_stage(one: Stage, model: Any, loading: Loading) -> tuple[Params, str]:
    """(the parameters of a stage from its source, their checksum). Raises UserError for one that does not fit."""
    held = _read(one, model, loading.path(one), loading)
    return _laid(one, model, held, loading), content(held.arrays)


def recorded_checksum(run_dir: Path, one: Stage) -> str:
    """The checksum of a stage of a run; empty without an entry."""
    return str((runs.read_json(run_dir / STAGES / RECORD) or {}).get(one.name, {}).get("checksum", ""))


def load_stages(run_dir: Path, model: Any, loading: Loading, only: tuple[str, ...] = ()) -> Params:
    """{name: parameters} of a run, checked against their checksums; of these names, if there are any.

    Raises UserError for a missing or changed one.
    """
    check_places(model, loading.places)
    folder, found = run_dir / STAGES, {}
    record = runs.read_json(folder / RECORD) or {}
    known: dict[tuple[Any, ...], Params] = {}
    for one in (one for one in model.stages if not only or one.name in only):
        if one.name not in record:
            raise UserError(f"{folder / RECORD} has no entry of the stage {one.name!r}: the run's folder is not whole.")
        entry = record[one.name]
        path = loading.places.get(one.name, folder / str(entry.get("file")))
        same = (one.network(model), one.dtype, str(path), entry.get("checksum"))
        if same not in known:
            known[same] = _found_again(one, model, path, entry, loading)
        found[one.name] = known[same]
    return found


def _found_again(one: Stage, model: Any, path: Path, entry: dict[str, Any], loading: Loading) -> Params:
    if not path.exists():
        raise UserError(
            f"The stage {one.name!r} of this run is not at {str(path)!r}; say where it is with --stage "
            f"{one.name}=PATH (a file or a run that holds the same parameters)."
        )
    held = _read(one, model, path, loading)
    if content(held.arrays) != entry.get("checksum"):
        raise UserError(
            f"{str(path)!r} does not hold the stage {one.name!r} that this run began with: its checksum differs. "
            f"Restore it, or name another place with --stage {one.name}=PATH."
        )
    return _laid(one, model, held, loading)


def _from_source(one: Stage, model: Any, whole: Params | None, loading: Loading) -> Held:
    if one.source != START or one.name in loading.places:
        return _read(one, model, loading.path(one), loading)
    assert whole is not None
    return _held(one, model, gathered(own(whole), loading.mesh), {"source": START}, None)


def _read(one: Stage, model: Any, path: Path, loading: Loading) -> Held:
    """The parameters at a path. Raises UserError if they are not those of the stage's model."""
    network = one.network(model)
    if isinstance(network, Published) and network.finds(str(path)):
        arrays = names.flatten(jax.device_get(network.read(str(path))))
        return _held(one, model, arrays, {"source": path.name}, None)
    if not path.is_dir():
        return _held(one, model, files.read(path), {"source": path.name}, path)
    params, step = loading.read_run(path, one.ema)
    params = network.of_run(params) if isinstance(network, Narrows) else params
    held = _held(one, model, gathered(params, loading.mesh), {"source": path.name, "step": step}, None)
    check_measured(one, network, path, lambda: content(held.arrays))
    return held


def _held(one: Stage, model: Any, arrays: dict[str, np.ndarray], said: dict[str, Any], file: Path | None) -> Held:
    expected = names.flatten(one.shapes(model))
    names.account(f"The stage {one.name!r} from {said['source']!r}", names.shapes(arrays), names.shapes(expected))
    return Held({name: arrays[name].astype(shape.dtype) for name, shape in expected.items()}, said, file)


def gathered(params: Params, mesh: Mesh) -> dict[str, np.ndarray]:
    """Parameters by flat name on the host of every process."""
    whole = NamedSharding(mesh, PartitionSpec())
    copy = jax.jit(lambda x: x, out_shardings=whole)
    return {name: np.asarray(copy(value).addressable_data(0)) for name, value in names.flatten(params).items()}


def _laid(one: Stage, model: Any, held: Held, loading: Loading) -> Params:
    cuts = names.flatten(parameter_shardings(loading.mesh, loading.rules, one.axes(model), one.shapes(model)))
    return names.unflatten({name: lay(value, cuts[name]) for name, value in held.arrays.items()})


def _clear(folder: Path, sources: list[tuple[str, Path]]) -> None:
    """Drops what an earlier start kept; files of others stay. Raises UserError for a source that would be dropped."""
    inside = [(name, path) for name, path in sources if str(path) and folder.resolve() in path.resolve().parents]
    if inside:
        name, path = inside[0]
        raise UserError(
            f"The stage {name!r} would be read from {str(path)!r}, in the folder where the run keeps its stages, which "
            "begins anew; move the file elsewhere."
        )
    folder.mkdir(parents=True, exist_ok=True)
    before = runs.read_json(folder / RECORD) or {}
    for name in {*before, *(name for name, _ in sources)}:
        (folder / f"{name}.safetensors").unlink(missing_ok=True)
    (folder / RECORD).unlink(missing_ok=True)


def _keep(held: Held, target: Path) -> None:
    whole = all(value.dtype == np.float32 for value in held.arrays.values())
    if whole and held.file is not None and held.file.suffix == target.suffix:
        _link(held.file, target)
    else:
        files.write(target, held.arrays, {})


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none."""
    source = source.resolve()  # caches of models hold symbolic links: the name of a name may not hold in another folder
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)
