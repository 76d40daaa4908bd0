"""Sampling options of the command line: `--sampler NAME[:FIELD=VALUE,...]` and changes of a run's plan."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, get_args

from unified_jax.config import fits
from unified_jax.errors import UserError, meant
from unified_jax.runs.flags import real, whole
from unified_jax.samplers.choice import AnySampler
from unified_jax.samplers.guidance import Axis
from unified_jax.samplers.karras import Churn
from unified_jax.samplers.plan import SamplingPlan

FIELDS = ("steps", "spacing", "shift", "clip", "complete", "temperature", "top_p", "through")
"""Flags that are fields of a plan."""


def sampler_names() -> dict[str, Any]:
    """The name of a sampler on the command line: its class in lower case with underscores."""
    return {_snake(cls.__name__): cls for cls in get_args(AnySampler)}


def parse_sampler(text: str) -> Any:
    """`dpm_solver:order=3,sde=true` to a sampler. Raises UserError with the known names."""
    name, _, options = text.partition(":")
    known = sampler_names()
    if name not in known:
        there = ", ".join(sorted(known))
        raise UserError(f"--sampler {name!r} is unknown{meant(name, known)} Expected one of {there}.")
    values: dict[str, Any] = {}
    churned: dict[str, float] = {}
    seen: set[str] = set()
    for part in filter(None, options.split(",")):
        key, equals, value = part.partition("=")
        if key in seen:
            raise UserError(f"--sampler {name}: {key} is given twice.")
        seen.add(key)
        fields = {f.name: f for f in dataclasses.fields(known[name])}
        # churn is a group of four numbers, of which one has the group's name; each is an option of its own
        churn = {f.name: f for f in dataclasses.fields(Churn)} if fields.pop("churn", None) else {}
        if not equals or (key not in fields and key not in churn):
            options_known = sorted((set(fields) | set(churn)) if churn else fields) or ["none"]
            raise UserError(
                f"--sampler {name}: expected option=value, found {part!r}; its options: "
                f"{', '.join(options_known)}{meant(key, options_known)}"
            )
        if key in churn:
            churned[key] = _number(value, churn[key], name)
        else:
            values[key] = _value(value, fields[key], name)
    try:
        return known[name](**values, **({"churn": Churn(**churned)} if churned else {}))
    except ValueError as error:
        raise UserError(f"--sampler {text}: {error}") from error


def _value(text: str, field: Any, name: str) -> Any:
    kind = type(field.default)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"--sampler {name}: {field.name} is true or false, found {text!r}.")
        return text.lower() == "true"
    value: Any = text
    if kind is not str:
        value = _number(text, field, name)
    if not fits(value, field.type):
        allowed = ", ".join(map(str, get_args(field.type)))
        raise UserError(f"--sampler {name}: {field.name} is one of {allowed}, found {text!r}.")
    return value


def _number(text: str, field: Any, name: str) -> int | float:
    """A number of the type of a field's default; infinite only if the default is."""
    try:
        return whole(text) if type(field.default) is int else real(text, math.isinf(field.default))
    except ValueError as error:
        raise UserError(f"--sampler {name}: {field.name}: {error}.") from error


def _snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))


def axis(text: str) -> Axis:
    """The direction NAME,NAME=SCALE. Raises ValueError for anything else."""
    names, equals, scale = text.partition("=")
    if not (names and equals):
        raise ValueError(f"--axes takes NAMES=SCALE, such as shape,colour=3; found {text!r}.")
    return Axis(tuple(names.split(",")), real(scale))


def with_flags(plan: SamplingPlan, flags: Mapping[str, Any]) -> SamplingPlan:
    """The plan with what the flags of `sample` say; None, or an empty one, leaves it. Raises UserError."""
    given = {name: value for name, value in flags.items() if value is not None}
    low, high = given.get("guidance_interval", (plan.guidance.low, plan.guidance.high))
    try:
        changes = {
            "scale": given.get("guidance"), "low": low, "high": high, "power": given.get("guidance_power"),
            "rescale": given.get("guidance_rescale"),
        }  # fmt: skip
        changes = {name: value for name, value in changes.items() if value is not None}
        if given["axes"]:
            if both := sorted({"guidance", "guidance_interval", "guidance_power"} & set(given)):
                raise ValueError(f"--axes has a scale for each direction: leave --{both[0].replace('_', '-')} out.")
            axes = tuple(axis(text) for text in given["axes"])
            changes |= {"scale": 1.0, "low": 0.0, "high": 1.0, "power": 0.0, "axes": axes}
        elif changes.get("scale") is not None:
            changes["axes"] = ()  # one scale in the place of the run's directions
        guidance = dataclasses.replace(plan.guidance, **changes)
    except ValueError as error:
        raise UserError(str(error)) from error
    sampler = parse_sampler(given["sampler"]) if given["sampler"] else plan.sampler
    changed = {name: given[name] for name in FIELDS if name in given}
    return dataclasses.replace(plan, sampler=sampler, guidance=guidance, **changed)
