"""How the fuzz tests draw nonsense.

Every test runs a fixed number of cases from a fixed seed (`derandomize`), so that a failure is the same failure on
every machine. To look further, with fresh seeds and more cases:

    UNIFIED_JAX_FUZZ=20 python -m pytest -q tests/fuzz

runs twenty times as many (`make nightly` runs three times as many), and hypothesis prints the smallest case that fails
with the line that reproduces it. What was found is then written down as an `@example` or as a test of its own. The law
is one: nonsense ends in a sentence (`UserError`, `RunError`), never in another exception, a hang, or code that runs.
"""

import json
import os
from typing import Any

from hypothesis import HealthCheck, settings, strategies as st

from unified_jax.errors import RunError, UserError

TIMES = int(os.environ.get("UNIFIED_JAX_FUZZ", "1"))


def complaint(call: Any) -> str:
    """The sentence with which `call()` refused, or nothing; any other exception fails the test."""
    try:
        call()
    except (UserError, RunError) as error:
        return str(error)
    return ""


def cases(count: int) -> settings:
    """`count` cases; more and fresh ones where the environment asks for them."""
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=checks,
    )


NONSENSE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30]),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["unified_jax.config", "os.system", "this.s", "antigravity.x", "unified_jax.cli.train.main", ".", ""]
    ),
    st.just([]),
    st.just({}),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.sampled_from(["class", "name", "x"]), st.text(max_size=8), max_size=2),
)
"""JSON values of every kind, among them paths of classes that must not be imported."""


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """The content with bytes flipped, cut out, put in or cut off; one to four such accidents."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "cut", "put", "end"]))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 16))]
        elif kind == "put":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "end":
            del data[at:]
    return bytes(data)


@st.composite
def mutated(draw: Any, plain: Any) -> Any:
    """A JSON value with one to three places replaced, removed, renamed or added."""
    value = json.loads(json.dumps(plain))
    for _ in range(draw(st.integers(1, 3))):
        where = value
        for _ in range(draw(st.integers(0, 6))):
            inner = list(where.values()) if isinstance(where, dict) else where if isinstance(where, list) else []
            inner = [item for item in inner if isinstance(item, dict | list) and item]
            if not inner:
                break
            where = inner[draw(st.integers(0, len(inner) - 1))]
        _change(draw, where)
    return value


def _change(draw: Any, where: Any) -> None:
    kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "add"]))
    keys = list(where) if isinstance(where, dict) else list(range(len(where)))
    key = keys[draw(st.integers(0, len(keys) - 1))] if keys else None
    if key is None or kind == "add":
        if isinstance(where, dict):
            where[draw(st.text(max_size=6))] = draw(NONSENSE)
        else:
            where.append(draw(NONSENSE))
    elif kind == "replace":
        where[key] = draw(NONSENSE)
    elif kind == "remove":
        del where[key]
    elif isinstance(where, dict):
        where[draw(st.text(max_size=6))] = where.pop(key)
