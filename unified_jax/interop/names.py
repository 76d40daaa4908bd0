"""Names of arrays: strict accounting, and nested dicts <-> flat names such as `blocks/attention/qkv_kernel`.

A conversion is right only if every array of the source is used once and every array of the target is filled. So both
sides are declared in full (name -> shape) and compared before any conversion. All differences are listed,
because one missing block means something else than one missing bias.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from unified_jax.errors import UserError
from unified_jax.typing import Params

Shape = tuple[int, ...]

INNER = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Name parts that torch.compile, FSDP and activation checkpointing insert."""

AVERAGE = ("ema", "ema_model", "model_ema")
OUTER = (*AVERAGE, "module", "model", "net", "network", "state_dict", "transformer", "diffusion_model")
"""Name prefixes of training code."""

Expected = Shape | str | None
"""A shape; None if unknown; text for the expectation on an array that is wrong in any case."""


def account(what: str, found: Mapping[str, Shape], expected: Mapping[str, Expected]) -> None:
    """Compares two lists of named shapes.

    Raises UserError that begins with `what` and lists every unmapped, missing and wrongly shaped name.
    """
    unmapped = sorted(set(found) - set(expected))
    missing = sorted(set(expected) - set(found))
    wrong = []
    for name in sorted(set(found) & set(expected)):
        want = expected[name]
        if want is not None and want != found[name]:
            words = want if isinstance(want, str) else str(list(want))
            wrong.append(f"{name} found {list(found[name])} expected {words}")
    parts = [f"{title}: {', '.join(names)}" for title, names in (("unmapped", unmapped), ("missing", missing)) if names]
    if wrong:
        parts.append(f"wrong shape: {'; '.join(wrong)}")
    prefix = common_prefix(found)
    if prefix and len(unmapped) == len(found):
        raise UserError(
            f"{what} cannot be converted: all its names begin with the prefix {prefix!r}, and none was expected; save "
            "it without that prefix."
        )
    if parts:
        raise UserError(f"{what} cannot be converted. {'. '.join(parts)}.")


def unwrapped(what: str, tensors: Mapping[str, Any], average: bool | None = None) -> tuple[dict[str, Any], str]:
    """(the arrays by names without training prefixes, which of two sets was read).

    Parallel and compiled modules put INNER anywhere in a name; checkpoints put OUTER, once or several times, before
    names. EMA names (AVERAGE) next to trained ones are two sets, of which `average` selects one. Raises UserError
    if two arrays get one name, or for two sets without `average`.
    """
    sets: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for name in tensors:
        left = [part for part in name.split(".") if part not in INNER] or [name]
        first = next((i for i, part in enumerate(left[:-1]) if part not in OUTER), len(left) - 1)
        own, bare = sets[any(part in AVERAGE for part in left[:first])], ".".join(left[first:])
        if bare in own:
            raise UserError(f"{what} holds {bare} twice, as {own[bare]} and {name}.")
        own[bare] = name
    trained, averaged = sets
    if not trained or not averaged:
        return {bare: tensors[name] for bare, name in (trained or averaged).items()}, ""
    if not set(trained) <= set(averaged):  # named like an EMA but something else; accounted for later
        return {bare: tensors[name] for bare, name in (*trained.items(), *((n, n) for n in averaged.values()))}, ""
    if average is None:
        both = f"{min(averaged.values())}, {min(trained.values())}"
        raise UserError(f"{what} holds EMA and trained weights ({both}); expected one of them.")
    chosen, other = (averaged, trained) if average else (trained, averaged)
    said = f"took {min(chosen.values())} and the like, not {min(other.values())}" + (" (--ema none)" if average else "")
    return {bare: tensors[name] for bare, name in chosen.items()}, said


def common_prefix(found: Iterable[str]) -> str:
    """The parts that all names begin with, up to a dot; nothing for a single name."""
    split = [name.split(".")[:-1] for name in found]
    if len(split) < 2:
        return ""
    first, last = min(split), max(split)
    count = next((i for i, part in enumerate(first) if i >= len(last) or last[i] != part), len(first))
    return "".join(f"{part}." for part in first[:count])


def shapes(tensors: Mapping[str, Any]) -> dict[str, Shape]:
    """Name -> shape."""
    return {name: tuple(value.shape) for name, value in tensors.items()}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": x}} as {"a/b": x}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Params:
    """The inverse of `flatten`; the names must have been accounted for, so that none is a prefix of another."""
    tree: Params = {}
    for name, value in flat.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return tree
