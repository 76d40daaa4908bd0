"""Names of arrays: strict accounting, and nested dicts <-> flat names such as `blocks/attention/qkv_kernel`.

A conversion is right only if every array of the source is used once and every array of the target is filled. So both
sides are declared in full (name -> shape) and compared before anything is moved; what does not agree is listed whole,
because one missing block says something else than one missing bias.
"""

from collections.abc import Mapping
from typing import Any

from unified_jax.errors import UserError
from unified_jax.typing import Params

Shape = tuple[int, ...]

Expected = Shape | str | None
"""A shape; None where it cannot be known; words for what was expected of an array that is wrong in any case."""


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
    if parts:
        raise UserError(f"{what} cannot be converted. {'. '.join(parts)}.")


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
    """The inverse of `flatten`; the names must have been accounted for, so that none is the beginning of another."""
    tree: Params = {}
    for name, value in flat.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return tree
