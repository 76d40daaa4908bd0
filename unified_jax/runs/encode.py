"""Features of a data set, computed once by frozen stages and kept in a folder (`data.cached`): see `encode`.

A shard gets its name when it is whole; what was begun is forgotten. So a process that was killed goes on at the first
shard that is missing, and the folder becomes that of a process that was not. Every shard is encoded by itself, and its
last batch is filled up by its last record: one program serves all records, whoever writes them.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from tqdm import tqdm

from unified_jax.data.base import Source, open_parts, prepare_example
from unified_jax.data.cached import RECORD, UNFINISHED, CachedFeatures, counts, described, part_folder
from unified_jax.data.prefetch import Prefetcher
from unified_jax.data.texts import kept_records
from unified_jax.errors import UserError
from unified_jax.hosts import lay_rows
from unified_jax.models.stages import STAGES
from unified_jax.precision import same_numbers
from unified_jax.runs.directory import write_json
from unified_jax.runs.features import cached_conditions, of_conditions, stages_of
from unified_jax.runs.folders import make_folder
from unified_jax.runs.saved import loading
from unified_jax.runs.shards import begin, is_whole, locked, write_shard
from unified_jax.runs.stages import Places, check_places, check_sources, read_stage
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.experiment import Experiment
from unified_jax.training.program import encoder_program
from unified_jax.typing import Params

SHARD_BYTES = 128 << 20
"""Most bytes of the features of a shard, which is held in memory until it is written."""
MOST_RECORDS = 1 << 16


@dataclass(frozen=True)
class Request:
    """Which features are computed, and how."""

    folder: Path
    splits: tuple[str, ...] = ()
    """Default: those of training and validation."""
    batch: int = 0
    """Records at a time, over all devices; 0: on each device as many as in a step of the training."""
    limit: int = 0
    """Most records of each part of a split, from the first one on; 0: all."""
    shard: int = 0
    """Records of a shard; 0: by their size."""
    places: Places = field(default_factory=dict)
    """Where stages are found instead of at their source."""
    trust: bool = False
    quiet: bool = False
    report: Callable[[int], None] | None = None
    """Called with the number of encoded records."""


class Job(NamedTuple):
    """A shard of a part, or a batch of it."""

    name: str
    """The data set's."""
    source: Source
    kept: np.ndarray | None
    """Records that are used, increasing; None: all."""
    folder: Path
    start: int
    stop: int

    @property
    def records(self) -> int:
        """How many."""
        return self.stop - self.start

    def batches(self, rows: int) -> Iterator["Job"]:
        """Its batches, in order."""
        for start in range(self.start, self.stop, rows):
            yield self._replace(start=start, stop=min(start + rows, self.stop))

    def used(self, index: int) -> bool:
        """Whether the training reads this record."""
        return self.kept is None or bool(np.diff(np.searchsorted(self.kept, [index, index + 1])))


class Maker(NamedTuple):
    """How records become features."""

    conditions: tuple[Any, ...]
    params: Params
    program: Any
    rows: int
    """Of a batch."""
    cut: NamedSharding

    def arrays(self, job: Job) -> dict[str, np.ndarray]:
        """The prepared sources of a batch, filled up by its last record; a record that is left out is blank."""
        sources: dict[str, Any] = {one.source.name: one.source for one in self.conditions}
        found = []
        for index in range(job.start, job.stop):
            if job.used(index):
                found.append(prepare_example(job.name, index, job.source[index], sources.values()))
            else:
                found.append({name: source.blank() for name, source in sources.items()})
        found += found[-1:] * (self.rows - len(found))
        return {name: np.stack([one[name] for one in found]) for name in sources}

    def features(self, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Their encodings, by field of the cache."""
        held = np.arange(self.rows, dtype=np.int32)
        return self.program(self.params, {n: lay_rows(a, held, self.rows, self.cut) for n, a in arrays.items()})


@same_numbers()
def encode(experiment: Experiment, request: Request, mesh: Mesh | None = None) -> dict[str, Any]:
    """Writes the features of every cached condition; returns what cache.json says. A finished folder is only checked.

    Raises UserError for a recipe without cached conditions, or a folder with other features; RunError for a disk that
    refuses, or a damaged shard. Finished shards stay, and the same call goes on.
    """
    conditions = cached_conditions(experiment.model)
    if not conditions:
        raise UserError(
            "The recipe's model has no cached condition or latents: name one with uj.Condition(..., encoder=..., "
            "cached=True), or uj.Latents(..., cached=True)."
        )
    if not isinstance(experiment.data, CachedFeatures):
        raise UserError("The recipe's data set names no features: data=uj.CachedFeatures(the data set, folder).")
    data = experiment.data.data
    check_places(experiment.model, request.places)
    check_sources(experiment.model, request.places)
    splits = request.splits or tuple(dict.fromkeys((experiment.split, experiment.validation.split)))
    sources = tuple({one.source.name: one.source for one in conditions}.values())
    parts = {split: open_parts(data, split, tuple(one.name for one in sources)) for split in splits}
    mesh = make_mesh(MeshShape()) if mesh is None else mesh
    how, rows = loading(mesh, experiment.rules, request.places, request.trust), rows_of(experiment, request, mesh)
    loaded = {one.name: read_stage(one, experiment.model, how) for one in stages_of(conditions)}
    head = {
        "set": {"name": data.name, "configuration": described(data)},
        **of_conditions(conditions, lambda one: loaded[one.name][1]),
        "rows": rows,
    }
    head |= {"shard": request.shard or _records(head["fields"])}
    begun = {"splits": {split: counts(parts[split], request.limit) for split in sorted(parts)}, **head}
    make_folder(request.folder)
    with locked(request.folder):
        record = begin(request.folder, begun)
        kept = {split: kept_records(data, split, sources) for split in splits}
        jobs = list(_jobs(request.folder, begun, parts, kept))
        params = {STAGES: {name: found for name, (found, _) in loaded.items()}}
        cut = NamedSharding(mesh, experiment.rules.activation_spec(("batch",)))
        program = encoder_program(conditions, mesh, experiment.rules)
        with experiment.rules.active(mesh):
            _write(Maker(conditions, params, program, rows * mesh.size, cut), jobs, request)
        write_json(request.folder / RECORD, record)
        (request.folder / UNFINISHED).unlink(missing_ok=True)
    return record


def rows_of(experiment: Experiment, request: Request, mesh: Mesh) -> int:
    """Rows of a batch on each device. By default as in a step: a matrix product of other rows may round otherwise."""
    if request.batch < 0 or request.limit < 0 or request.batch % mesh.size:
        raise UserError(
            f"--batch and --limit must not be negative, and the {mesh.size} device(s) must divide --batch; found "
            f"{request.batch} and {request.limit}."
        )
    if request.batch:
        return request.batch // mesh.size
    data, fsdp = mesh.size, 1
    with contextlib.suppress(UserError):  # a mesh for more devices than are here
        data, fsdp, _, _ = experiment.mesh.resolve(mesh.size)
    return max(1, experiment.batch_size // (data * fsdp))


def _records(fields: dict[str, Any]) -> int:
    """Records of a shard by their size: a power of two."""
    size = sum(int(np.prod(one["shape"])) * np.dtype(one["dtype"]).itemsize for one in fields.values())
    return min(MOST_RECORDS, 1 << max(0, (SHARD_BYTES // max(size, 1)).bit_length() - 1))


def _jobs(folder: Path, begun: dict[str, Any], parts: Any, kept: dict[str, Any]) -> Iterator[Job]:
    """The shards of every part, in order."""
    for split, found in parts.items():
        for i, (entry, (_, name, source)) in enumerate(zip(begun["splits"][split], found, strict=True)):
            for start in range(0, entry["count"], begun["shard"]):
                stop, place = min(start + begun["shard"], entry["count"]), part_folder(folder, split, i)
                yield Job(name, source, kept[split][i], place / f"{start // begun['shard']:06d}", start, stop)


def _write(maker: Maker, jobs: list[Job], request: Request) -> None:
    """Encodes the shards that are not there, each batch while the one before is copied to the host."""
    forms = {feature.name: feature for one in maker.conditions for feature in one.features}
    todo = [job for job in jobs if not is_whole(job.folder, job.records, forms)]
    steps = [(job, batch) for job in todo for batch in job.batches(maker.rows)]
    done = sum(job.records for job in jobs) - sum(job.records for job in todo)
    bar = tqdm(
        total=sum(job.records for job in jobs), initial=done, desc="features", unit="record", dynamic_ncols=True,
        disable=request.quiet,
    )  # fmt: skip
    ready = Prefetcher(lambda i: maker.arrays(steps[i][1]) if i < len(steps) else {}, 0)
    arrays: dict[str, np.ndarray] = {}
    waiting: list[tuple[Job, Job, dict[str, jax.Array]]] = []
    try:
        for i in range(len(steps) + 1):
            if i < len(steps):
                waiting.append((*steps[i], maker.features(next(ready))))
            if len(waiting) == 2 or (i == len(steps) and waiting):
                job, batch, made = waiting.pop(0)
                if batch.start == job.start:
                    arrays = {name: np.empty((job.records, *one.shape), one.dtype) for name, one in forms.items()}
                for name, value in made.items():
                    rows = slice(batch.start - job.start, batch.stop - job.start)
                    arrays[name][rows] = np.asarray(value)[: batch.records]
                if batch.stop == job.stop:
                    write_shard(request.folder, job.folder, arrays)
                done += batch.records
                bar.update(batch.records)
                if request.report:
                    request.report(done)
    finally:
        ready.close()
        bar.close()
