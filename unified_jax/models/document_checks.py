"""What a Transfusion model refuses, before anything is compiled: streams, names and plans that do not suit it."""

from typing import Any

from unified_jax.data.vocabulary import check_written
from unified_jax.errors import UserError
from unified_jax.processes.edm import Edm
from unified_jax.samplers.plan import SamplingPlan

FREE = "free"
"""The `wanted` that lets the model choose."""
ORDER = "order"
"""The result of free running that lists the generated modalities."""


def check_documents(model: Any) -> None:
    """Raises ValueError for modalities, streams or documents that do not suit each other."""
    names = [m.name for m in model.modalities]
    if len(set(names)) != len(names) or "text" in names:
        raise ValueError(f"Transfusion needs distinct modality names, none of them 'text'; found {names}.")
    if taken := [name for name in names if name in (FREE, ORDER)]:
        raise ValueError(f"Transfusion gives the name {taken[0]!r} a meaning of its own; name the modality otherwise.")
    if own := [s.label for s in model.streams if s.latents and s.latents.cached]:
        raise ValueError(f"Transfusion encodes its latents in every step; leave cached off for {', '.join(own)}.")
    if own := [s.label for s in model.streams if s.name or s.time or s.ends]:
        raise ValueError(f"Transfusion's streams have their modality's name and times of their own; found {own}.")
    if padded := [m.name for m in model.modalities if getattr(m, "pads", False)]:
        raise ValueError(f"Transfusion takes whole spans only: choose another fit than 'pad' for {', '.join(padded)}.")
    if model.documents.noise_limit < 1 and any(isinstance(s.process, Edm) for s in model.streams):
        raise ValueError(
            "Documents.noise_limit is a share of the time, and Edm's noise levels are unbounded; leave it at 1."
        )
    check_written((model.text, *model.written), tuple(stream.modality for stream in model.streams))


def check_document_plan(model: Any, plan: SamplingPlan) -> None:
    """Raises UserError for guidance, clipping or modalities to go through that the model has not."""
    names = [m.name for m in model.modalities]
    if strange := [name for name in plan.through if name not in names]:
        raise UserError(f"The plan goes through {strange[0]!r}; the model has {', '.join(names)}.")
    guidance = plan.guidance
    if model.streams and (guidance.axes or guidance.skip or guidance.joint != 1):
        raise UserError("Transfusion drops all context before a span or none: use one guidance scale.")
    if plan.clip and any(stream.latents for stream in model.streams):
        raise UserError("plan.clip bounds data to [-1, 1], and latents have no bounds: leave it off.")
