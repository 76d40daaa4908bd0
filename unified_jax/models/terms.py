"""What a model's losses take and give, by shapes alone: a batch without content, and the names of the terms."""

import functools
from typing import Any

import jax
import numpy as np

from unified_jax.errors import UserError
from unified_jax.modalities.base import blanks
from unified_jax.models.stages import stage_shapes
from unified_jax.precision import seed_key


def trained_on(model: Any) -> tuple[Any, ...]:
    """The modalities that a training batch holds: all, unless the model says otherwise."""
    return getattr(model, "trained_on", model.modalities)


def blank_batch(model: Any, examples: int) -> dict[str, tuple[int, np.ndarray]]:
    """(rows, one blank row) of every array of a batch of `examples` examples."""
    if model.packer is not None:
        rows = examples // model.packer.policy.per_row
        return {name: (rows, array[0]) for name, array in model.packer.empty(1).items()}
    found = {"slot": np.zeros((), np.int32)}
    for modality in trained_on(model):
        found |= blanks(modality)
    return {name: (examples, one) for name, one in found.items()}


@functools.lru_cache(maxsize=64)
def terms_of(model: Any) -> tuple[str, ...]:
    """The names of the terms of `losses`. Raises UserError for losses of another form than `Model.losses`."""
    rows = model.packer.policy.per_row if model.packer is not None else 1
    batch = {
        name: jax.ShapeDtypeStruct((count, *one.shape), one.dtype)
        for name, (count, one) in blank_batch(model, rows).items()
    }
    batch["step"] = jax.ShapeDtypeStruct((), "int32")
    params = jax.eval_shape(model.init, seed_key(0))
    aux = jax.eval_shape(model.init_aux, params)
    params = {**params, **stage_shapes(model)}
    found = jax.eval_shape(lambda p, a, b: model.losses(p, a, b, seed_key(0)), params, aux, batch)
    _check_form(type(model).__name__, found)
    return tuple(found[0])


def _check_form(name: str, found: Any) -> None:
    expected = "expected (terms, statistics, metrics), where terms is a dict: name to (sum, weight), two arrays"
    if not isinstance(found, tuple | list) or len(found) != 3 or not isinstance(found[0], dict):
        raise UserError(f"{name}.losses returned {_said(found)}; {expected}.")
    for term, pair in found[0].items():
        if not isinstance(pair, tuple | list) or len(pair) != 2 or any(not hasattr(one, "shape") for one in pair):
            raise UserError(f"{name}.losses: the term {term!r} is {_said(pair)}; {expected}.")


def _said(found: Any) -> str:
    if isinstance(found, tuple | list):
        return f"({', '.join(map(_said, found))})"
    return f"{found.dtype}{list(found.shape)}" if hasattr(found, "shape") else f"a {type(found).__name__}"
