"""Whether features that were computed before are those of the stages that a run holds (`data.cached`).

A checksum of a stage's parameters decides, wherever they come from; its configuration and that of its source, a
tokenizer for instance, must be the same too.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from unified_jax.data.cached import AGAIN, CachedFeatures, check_same, described, read_record
from unified_jax.errors import UserError
from unified_jax.models.latent_features import held_latents
from unified_jax.models.stages import Stage
from unified_jax.models.streams import conditions_of
from unified_jax.training.experiment import Experiment


def cached_conditions(model: Any) -> tuple[Any, ...]:
    """The conditions of a model whose encodings are computed once, and the latents of its streams."""
    return (*(one for one in conditions_of(model) if one.cached), *held_latents(model))


def stages_of(conditions: tuple[Any, ...]) -> tuple[Stage, ...]:
    """Their encoders, each once."""
    return tuple(dict.fromkeys(one.encoder for one in conditions if one.encoder is not None))


def caches_in(data: Any) -> Iterator[CachedFeatures]:
    """The folders of features in a data set, and in those that it is made of."""
    if isinstance(data, CachedFeatures):
        yield data
    if isinstance(data, tuple):
        for one in data:
            yield from caches_in(one)
    elif dataclasses.is_dataclass(data) and not isinstance(data, type):
        for field in dataclasses.fields(data):
            yield from caches_in(getattr(data, field.name))


def of_conditions(conditions: tuple[Any, ...], checksum_of: Callable[[Stage], str]) -> dict[str, Any]:
    """Sources, stages and fields as `cache.json` names them."""
    stages = {
        one.name: {"configuration": described(one.model), "dtype": one.dtype, "rows": one.rows, "checksum": checksum}
        for one in stages_of(conditions)
        for checksum in [checksum_of(one)]
    }
    fields = {
        feature.name: {"shape": list(feature.shape), "dtype": feature.dtype}
        for one in conditions
        for feature in one.features
    }
    sources: dict[str, Any] = {one.source.name: described(one.source) for one in conditions}
    return {"sources": sources, "stages": stages, "fields": fields}


def check_features(experiment: Experiment, checksum_of: Callable[[Stage], str] | None = None) -> None:
    """Raises UserError where the features of the data set are of other stages than those that the run holds.

    Without `checksum_of` only configurations are compared.
    """
    conditions = cached_conditions(experiment.model)
    caches = tuple(caches_in(experiment.data)) if conditions else ()
    if not caches:
        return
    records = {cache.folder: read_record(cache.folder) for cache in caches}
    for told in (None, checksum_of):  # what is cheap to compare is compared first
        ours = of_conditions(conditions, told or (lambda _: ""))
        for folder, record in records.items():
            _check_record(folder, record, ours)
        if checksum_of is None:
            return


def _check_record(folder: str, saved: dict[str, Any], ours: dict[str, Any]) -> None:
    for name, source in ours["sources"].items():
        check_same(folder, f"source {name!r}", saved["sources"].get(name, "none"), source)
    for name, stage in ours["stages"].items():
        there = saved["stages"].get(name)
        if there is None:
            known = ", ".join(saved["stages"])
            raise UserError(f"The features in {folder!r} are of the stage {known}, the run has {name}. {AGAIN}")
        check_same(folder, f"stage {name!r}", there["configuration"], stage["configuration"])
        if there["dtype"] != stage["dtype"]:
            raise UserError(
                f"The features in {folder!r} are of the stage {name!r} in {there['dtype']}; the run holds it in "
                f"{stage['dtype']}. {AGAIN}"
            )
        if stage["checksum"] and there["checksum"] != stage["checksum"]:
            raise UserError(
                f"The features in {folder!r} are of another stage {name!r}: the checksum of its parameters is "
                f"{there['checksum'][:12]} there, {stage['checksum'][:12]} in this run. {AGAIN}"
            )
    for name, field in ours["fields"].items():
        if saved["fields"].get(name) != field:
            there = _form(saved["fields"].get(name))
            raise UserError(f"The features in {folder!r}: {name} is {there}; the run reads {_form(field)}. {AGAIN}")


def _form(field: dict[str, Any] | None) -> str:
    return "not there" if field is None else f"{field['dtype']} {field['shape']}"
