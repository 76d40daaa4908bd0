"""What a golden's options may be. Each family lists its options with a check of their values; what is not listed, or
does not pass, is named and the file (or the output) is not certified.

    `shape`, `seed` and the like describe how the stored inputs were sampled: `anything`.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from unified_jax.certify import Unserved

Check = Callable[[Any], bool]


def anything(value: Any) -> bool:
    """An option that changes no output, whatever it is."""
    del value
    return True


def flag(value: Any) -> bool:
    """True or False."""
    return isinstance(value, bool)


def number(value: Any) -> bool:
    """A finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def positive(value: Any) -> bool:
    """A finite number above 0."""
    return number(value) and value > 0


def whole(value: Any) -> bool:
    """An integer, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def count(value: Any) -> bool:
    """An integer above 0."""
    return whole(value) and value > 0


def either(*allowed: Any) -> Check:
    """One of these values, of the same type (True is not 1)."""
    return lambda value: any(type(value) is type(one) and value == one for one in allowed)


def optional(check: Check) -> Check:
    """None, or a value that passes."""
    return lambda value: value is None or check(value)


def each(check: Check) -> Check:
    """A list of values that pass."""
    return lambda value: isinstance(value, list) and all(check(one) for one in value)


def mapping(value: Any) -> bool:
    """An object, whose entries are checked by themselves."""
    return isinstance(value, dict)


def unserved(given: Mapping[str, Any], served: Mapping[str, Check]) -> str:
    """The first option that is not served, as a reason; "" where all are."""
    for name, value in given.items():
        check = served.get(name)
        if check is None or not check(value):
            return named(name, value)
    return ""


def named(name: str, value: Any) -> str:
    """The reason of an option that is not served."""
    shown = json.dumps(value, default=str)
    return f"option {name} = {shown if len(shown) < 80 else shown[:76] + ' ...'} is not served"


def require(given: Any, served: Mapping[str, Check]) -> dict[str, Any]:
    """The options, all of them served. Raises Unserved with the first that is not."""
    if not isinstance(given, dict):
        raise Unserved(f"options are an object, found {json.dumps(given, default=str)[:80]}")
    if reason := unserved(given, served):
        raise Unserved(reason)
    return given
