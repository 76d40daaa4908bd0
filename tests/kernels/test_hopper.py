"""The Hopper kernels in Pallas' simulator of a GPU equal float64 and the specification, and have no races.

The simulator needs JAX 0.11 (`make test-latest`, `make aot-gpu`); before, this says "not verified". It computes wgmma
with its left operand in registers as a plain product.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.oracle import dense
from tests.kernels.test_derivatives import assert_equal_to_float64
from tests.kernels.test_pallas import assert_close, problem, projections
from unified_jax.kernels import pallas, reference
from unified_jax.kernels.hopper import compat

HOPPER = pallas.Target("hopper", interpret=True)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(compat.missing() is not None, reason=f"not verified: {compat.missing()}"),
]

CASES = [
    ("full", 1, 1, 1, 2, 2, 64),
    ("random", 2, 17, 17, 2, 1, 72),
    ("causal", 1, 128, 128, 2, 2, 128),
    ("packed", 1, 257, 257, 2, 1, 64),
    ("random", 1, 130, 200, 1, 1, 96),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}_{c[2]}x{c[3]}_{c[6]}")
def test_attention_equals_float64_without_races(case, capfd):
    q, k, v, visible, do, dlse = problem(*case)
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in (q, k, v))
    do = np.asarray(jnp.asarray(do, jnp.bfloat16), np.float32)
    attend = functools.partial(pallas.attend, visible=jnp.asarray(visible), target=HOPPER)
    (out, lse), back = jax.vjp(lambda q, k, v: attend(q, k, v), q, k, v)
    found = (out, lse, *back((jnp.asarray(do, jnp.bfloat16), jnp.asarray(dlse))))
    exact = [np.asarray(x, np.float32) for x in (q, k, v)]
    assert_close([np.asarray(x, np.float32) for x in found], dense(*exact, visible, do, dlse), 1e-2)
    printed = capfd.readouterr()
    assert "RACE DETECTED" not in printed.out + printed.err


@pytest.mark.parametrize("case", [("random", 1, 17, 40, 2, 1, 64), ("packed", 1, 140, 140, 1, 1, 72)], ids=str)
def test_forward_mode_and_reverse_over_forward_equal_float64_without_races(case, capfd):
    assert_equal_to_float64(case, 2e-2, jnp.bfloat16, HOPPER, eager=True)
    printed = capfd.readouterr()
    assert "RACE DETECTED" not in printed.out + printed.err


def assert_projections(sizes, target):
    """Parts one and three in bfloat16, beside the specification."""
    x, m, qkv, out, rotary = projections(*sizes)
    x = x.astype(jnp.bfloat16)
    qkv = qkv._replace(kernel=qkv.kernel.astype(jnp.bfloat16))
    out = out._replace(kernel=out.kernel.astype(jnp.bfloat16))
    found = pallas.modulated_qkv(x, m, qkv, rotary, "layer", 1e-6, target)
    expected = reference.modulated_qkv(x, m, qkv, norm="layer", rotary=rotary)
    for a, b in zip(found, expected, strict=True):
        assert float(jnp.abs(a - b).max()) <= 1e-2 * float(jnp.abs(b).max())
    y = pallas.gated_out(x, found[0], out, m.gate, m.index, target)
    b = reference.gated_out(x, found[0], out, m.gate, m.index)
    assert float(jnp.abs(y - b).max()) <= 1e-2 * float(jnp.abs(b).max())


@pytest.mark.parametrize("rows", [1, 3])
def test_projections_equal_the_specification(rows):
    assert_projections((1, 70, 128, 2, 1, 64, rows), HOPPER)
