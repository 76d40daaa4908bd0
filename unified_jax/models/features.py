"""The outputs of encoders as fields of a batch, `SOURCE.STAGE.PART`: "caption.text.tokens", "caption.text.length".

They are computed by a program of their own, before the step that reads them or long before (`data.cached`): a compiler
that sees an encoder and the network together merges the end of one with the beginning of the other, and rounds
otherwise (an `optimization_barrier` does not keep XLA from it on a CPU).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from unified_jax.layers.form import ConditionInput
from unified_jax.modalities.features import Features
from unified_jax.models.stages import STAGES, Encoded, Part, Stage, encode
from unified_jax.processes.targets import expand
from unified_jax.typing import Keys, Params


@functools.lru_cache(maxsize=64)
def features_of(stage: Stage, source: Any, part: Part) -> tuple[Features, ...]:
    """The fields of one part of an encoding; tokens have a length, unless all are there."""
    row = jax.ShapeDtypeStruct((1, *source.blank().shape), source.blank().dtype)
    found = jax.eval_shape(functools.partial(encode, stage), {STAGES: {stage.name: stage.shapes(None)}}, row)
    parts = _parts(found, part)
    if part not in parts:
        raise ValueError(f"The stage {stage.name!r} gives no {part}.")
    return tuple(Features(field(stage, source, n), a.shape[1:], a.dtype.name) for n, a in parts.items())


def field(stage: Stage, source: Any, part: str) -> str:
    """The name of a part of an encoding in a batch."""
    return f"{source.name}.{stage.name}.{part}"


def _parts(encoded: Encoded, part: Part) -> dict[str, Any]:
    names = (part, "length") if part == "tokens" else (part,)
    return {name: getattr(encoded, name) for name in names if getattr(encoded, name) is not None}


def encoding_given(stage: Stage, source: Any, part: Part, given: dict[str, Any]) -> Encoded | None:
    """A part of an encoding as a batch holds it; None where it does not."""
    if field(stage, source, part) not in given:
        return None
    names = (part, "length") if part == "tokens" else (part,)
    there = {name: given[field(stage, source, name)] for name in names if field(stage, source, name) in given}
    return Encoded(**{name: jnp.asarray(value) for name, value in there.items()})


def encodings(
    conditions: tuple[Any, ...], params: Params, given: dict[str, Any], drawn: Keys | None = None
) -> dict[str, Array]:
    """The fields of all conditions that have an encoder, and whose source is given; each source is encoded once.

    By the keys `drawn`, one per row, encoders draw what a source leaves out, if they can.
    """
    found: dict[tuple[Stage, str], Encoded] = {}
    fields: dict[str, Array] = {}
    for one in conditions:
        if one.encoder is None or one.source.name not in given:
            continue
        key = (one.encoder, one.source.name)
        if key not in found:
            value = jnp.asarray(given[one.source.name])
            lead = value.shape[: value.ndim - one.source.blank().ndim]  # [b], and of packed rows [b, k]
            made = encode(one.encoder, params, value.reshape(-1, *value.shape[len(lead) :]), drawn)
            found[key] = jax.tree.map(lambda a, lead=lead: a.reshape(*lead, *a.shape[1:]), made)
        fields |= {field(one.encoder, one.source, n): a for n, a in _parts(found[key], one.part).items()}
    return fields


def empties(conditions: tuple[Any, ...], params: Params, given: dict[str, Any], count: int) -> dict[str, Array]:
    """Empty values of the absent sources whose null is the encoding of one, `count` rows by field.

    Where the parameters hold no stages, as while a network is initialised, there are none.
    """
    absent = [one for one in conditions if one.form.null == "empty" and one.source.name not in given]
    blanks = {one.source.name: one.source.blank() for one in absent if STAGES in params}
    return {name: jnp.broadcast_to(blank, (count, *blank.shape)) for name, blank in blanks.items()}


def emptied(
    conditions: tuple[ConditionInput, ...], nulls: tuple[ConditionInput, ...], dropped: Bool[Array, "b l"]
) -> tuple[ConditionInput, ...]:
    """The conditions with encodings of empty values, which `nulls` have in every row, where their column is set."""

    def one(shown: ConditionInput, null: ConditionInput, lost: Bool[Array, "b"]) -> ConditionInput:
        if shown.form.null != "empty":
            return shown
        value = jnp.where(expand(lost, shown.value), null.value, shown.value)
        if shown.length is None or null.length is None:
            return shown._replace(value=value)
        return shown._replace(value=value, length=jnp.where(lost, null.length, shown.length))

    return tuple(one(*pair, dropped[:, i]) for i, pair in enumerate(zip(conditions, nulls, strict=True)))


def to_encode(conditions: tuple[Any, ...]) -> tuple[Any, ...]:
    """The conditions whose encodings a batch does not hold."""
    return tuple(one for one in conditions if one.encoder is not None and not one.cached)
