"""Checks of what a model of streams declares."""

from typing import Any

from unified_jax.data.base import Derived
from unified_jax.layers.form import Positioned
from unified_jax.models.streams import Stream


def check_names(kind: str, names: list[str]) -> None:
    """Raises ValueError for a repeated name."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{kind} need distinct names; {', '.join(twice)} is used twice in {', '.join(names)}.")


def check_fields(fields: list[Any]) -> None:
    """Raises ValueError if one field would be read as two modalities."""
    by_name = {field.name: field for field in fields}
    for field in fields:
        if field != by_name[field.name]:
            raise ValueError(
                f"The field {field.name!r} is read as {field} and as {by_name[field.name]}; a field is one modality."
            )


def cut_images(model: Any) -> list[Any]:
    """The images whose cuts are conditions. Raises ValueError where the model mirrors them and no cut says so."""
    found: list[Any] = [one.source for one in model.reads if isinstance(one.source, Derived)]
    if found and model.flip:
        raise ValueError(
            f"The condition {found[0].name!r} is told before the model mirrors; mirror the records: "
            f"flip of the modality {found[0].image.name!r}."
        )
    return [source.image for source in found]


def check_buckets(model: Any) -> None:
    """Raises ValueError for an image of several sizes that the model or its network cannot follow."""
    for stream in model.streams:
        if not getattr(stream.modality, "buckets", ()):
            continue
        if stream.latents is not None or getattr(model, "align", None) is not None or stream.embedder != "linear":
            raise ValueError(f"The buckets of {stream.label!r} need model space, patches, and no alignment.")
        network: Any = model.network
        if isinstance(network, Positioned) and network.position_grids((stream.form,)):
            raise ValueError(
                f"{type(network).__name__} has a table of positions for one size, and {stream.label!r} has buckets; "
                "choose a network whose positions follow the size (DiT, or UVit with a grid)."
            )


def check_clocks(streams: tuple[Stream, ...]) -> None:
    """Raises ValueError for shared times of an unknown stream, or of another process."""
    by_name = {stream.label: stream for stream in streams}
    for stream in (s for s in streams if s.time):
        clock = by_name.get(stream.time)
        if clock is None or clock.time or clock is stream:
            having = ", ".join(name for name, s in by_name.items() if not s.time and s is not stream) or "none"
            raise ValueError(
                f"{stream.label}: time {stream.time!r} is not a stream with its own times; those are {having}."
            )
        if (clock.process, clock.ends) != (stream.process, stream.ends):
            raise ValueError(f"{stream.label} shares the times of {stream.time}: their process and ends must be equal.")
