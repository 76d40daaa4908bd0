import dataclasses
import json

import pytest

from tests.helpers import EXPERIMENT
from unified_jax.config import check_kinds, config_hash, from_plain, to_plain
from unified_jax.errors import UserError
from unified_jax.processes.grids import Needs
from unified_jax.runs.loop import prepare
from unified_jax.runs.recipe import load_recipe, recipe_names
from unified_jax.samplers.choice import Euler, Heun


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_survives_json(name):
    try:
        experiment = load_recipe(name)
    except UserError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(f"not verified: {name} needs an extra that is not installed")
    plain = json.loads(json.dumps(to_plain(experiment)))
    assert from_plain(plain) == experiment
    assert hash(from_plain(plain)) == hash(experiment)
    assert '"parent":' not in json.dumps(plain)


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


@dataclasses.dataclass(frozen=True)
class Mine:
    """A sampler that nobody added to the known ones."""

    needs = Needs()


@dataclasses.dataclass(frozen=True)
class Holder:
    sampler: Euler | Heun
    inner: tuple["Holder", ...] = ()


def test_what_could_not_be_read_back_is_refused_before_it_trains():
    check_kinds(Holder(Heun(), (Holder(Euler()),)))
    with pytest.raises(UserError, match=r"^Holder\.sampler is 'Mine\(\)', expected Euler \| Heun\."):
        check_kinds(Holder(Heun(), (Holder(Mine()),)))
    e = dataclasses.replace(EXPERIMENT)
    object.__setattr__(e, "steps", "many")
    with pytest.raises(UserError, match=r"Experiment\.steps is 'many', expected int"):
        prepare(e)


def test_callables_have_no_place_in_a_configuration():
    with pytest.raises(TypeError, match="plain values"):
        to_plain((print,))
