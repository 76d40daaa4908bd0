"""The names of a model's terms come from the shapes of its losses; losses of another form are told as such."""

from dataclasses import dataclass

import jax.numpy as jnp
import pytest

from unified_jax.errors import UserError
from unified_jax.modalities.image import Image
from unified_jax.models.base import Declared
from unified_jax.models.terms import blank_batch, trained_on


@dataclass(frozen=True)
class Own(Declared):
    """A user's own model: the form of its losses."""

    form: str = "right"
    modalities = (Image(8, 8, 3, 4),)

    def init(self, key):
        del key
        return {"w": jnp.zeros(())}

    def losses(self, params, aux, batch, key):
        error = jnp.square(params["w"] - jnp.mean(batch["image"], (1, 2, 3)))
        pair = (error, jnp.ones_like(error))
        forms = {
            "right": ({"error": pair, "again": pair}, {}, {}),
            "bare": {"error": pair},
            "one array": ({"error": error}, {}, {}),
            "a number": ({"error": (error, 1.0)}, {}, {}),
        }
        return forms[self.form]


def test_terms_are_the_names_of_its_losses():
    assert sorted(Own().terms) == ["again", "error"]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("bare", r"Own.losses returned a dict; expected \(terms, statistics, metrics\)"),
        ("one array", r"the term 'error' is float32\[1\]; expected .*name to \(sum, weight\), two arrays"),
    ],
)
def test_losses_of_another_form_are_told(form, words):
    with pytest.raises(UserError, match=words):
        _ = Own(form).terms


def test_a_plain_number_may_be_a_weight():
    assert Own("a number").terms == ("error",)


def test_a_blank_batch_has_the_rows_and_shapes_of_a_step():
    found = blank_batch(Own(), 5)
    assert {name: (rows, one.shape, str(one.dtype)) for name, (rows, one) in found.items()} == {
        "slot": (5, (), "int32"),
        "image": (5, (8, 8, 3), "uint8"),
    }
    assert trained_on(Own()) == Own.modalities
