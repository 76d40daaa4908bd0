"""A model whose image has several sizes (`Image.buckets`), at one of them."""

from dataclasses import replace
from typing import Any

from unified_jax.data.buckets import bucketed, sized
from unified_jax.errors import UserError
from unified_jax.models.streams import Condition


def of_size(model: Any, size: tuple[int, int]) -> Any:
    """The model with its image of this (height, width); parameters are the same for all sizes.

    Raises UserError for a model without buckets, or another size.
    """
    image = bucketed(model.modalities)
    if image is None or not hasattr(model, "modality"):
        raise UserError("This model has one size: its image has no buckets.")
    try:
        sources = sized(tuple(one.source for one in model.reads), image, size)
        reads = tuple(_of(one, source) for one, source in zip(model.reads, sources, strict=True))
        return replace(model, modality=image.sized(*size), conditions=reads)
    except ValueError as error:
        raise UserError(f"--size: {error}") from None


def _of(one: Condition, source: Any) -> Condition:
    return one if one.source == source else replace(one, source=source)
