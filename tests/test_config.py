import dataclasses
import json

import pytest

from tests.helpers import EXPERIMENT
from unified_jax.cli.recipe import load_recipe, recipe_names
from unified_jax.config import config_hash, from_plain, to_plain
from unified_jax.errors import UserError


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_survives_json(name):
    experiment = load_recipe(name)
    plain = json.loads(json.dumps(to_plain(experiment)))
    assert from_plain(plain) == experiment
    assert hash(from_plain(plain)) == hash(experiment)
    assert "parent" not in json.dumps(plain)


def test_hash_sees_every_field():
    assert config_hash(EXPERIMENT) == config_hash(dataclasses.replace(EXPERIMENT))
    assert config_hash(EXPERIMENT) != config_hash(dataclasses.replace(EXPERIMENT, seed=1))


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({"class": "os.system"}, "not of this package; pass --trust"),
        ({"class": "unified_jax.config.to_plain"}, "not a dataclass"),
        ({"class": "unified_jax.models.diffusion.Difusion"}, "cannot be found"),
        ({"class": "unified_jax.modalities.label.Label", "colour": 3}, "does not fit this version"),
    ],
)
def test_foreign_configurations_are_refused(plain, words):
    with pytest.raises(UserError, match=words):
        from_plain(plain)


def test_callables_have_no_place_in_a_configuration():
    with pytest.raises(TypeError, match="plain values"):
        to_plain((print,))
