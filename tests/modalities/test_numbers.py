"""Numbers that a network reads: what is taken, what a person may type, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.config import from_plain, to_plain
from unified_jax.modalities.numbers import Numbers

SIZE = Numbers("size", 2, "scalars")


@pytest.mark.parametrize("raw", [[512, 0.5], np.asarray([512, 0.5]), np.float16([512, 0.5])])
def test_numbers_of_any_width_are_taken(raw):
    found = SIZE.prepare(raw)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [512, 0.5])
    np.testing.assert_array_equal(SIZE.to_condition(jnp.asarray(found)[None]), [[512, 0.5]])


def test_one_number_needs_no_brackets():
    for raw in (3, 3.0, np.uint8(3), [3]):
        np.testing.assert_array_equal(Numbers().prepare(raw), [3.0])
    assert Numbers().blank().shape == Numbers().prepare(1).shape


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ([1.0], r"expected float \[2\], found float32 \[1\]"),
        ([[1.0, 2.0]], r"found float32 \[1, 2\]"),
        ([1.0, np.nan], "expected finite numbers, found 1 that are not"),
        ([1.0, 1e39], "expected finite numbers, found 1 that are not"),
        (["a", "b"], "expected float"),
        ([True, False], "expected float"),
        ([1.0, None], "expected float"),
    ],
)
def test_what_is_no_such_row_is_refused(raw, words):
    with pytest.raises(ValueError, match=words):
        SIZE.prepare(raw)


def test_what_a_person_types():
    np.testing.assert_array_equal(SIZE.parse("512 -1.5e-3"), np.float32([512, -1.5e-3]))
    for text in ("1", "1 2 3", "one two", "", "1 nan", "1 1e400"):
        with pytest.raises(ValueError, match=r"^expected 2 number\(s\)"):
            SIZE.parse(text)


def test_forms_and_configurations():
    form = SIZE.condition_form()
    assert (form.name, form.kind, form.features, form.null) == ("size", "scalars", 2, "zero")
    assert Numbers(count=3).condition_form().kind == "vector"
    assert from_plain(to_plain(SIZE)) == SIZE
    with pytest.raises(ValueError, match="at least 1"):
        Numbers(count=0)
