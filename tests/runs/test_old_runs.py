"""Runs of version 0.1.0: their configurations open, go on and are started from; their parameters lie where they lay.

`tests/legacy/runs/*.json` hold what that version wrote: config.json, and the paths and shapes of all parameters.
"""

import dataclasses
import json

import jax
import pytest

from unified_jax.config import config_hash, from_plain
from unified_jax.errors import UserError
from unified_jax.interop.names import flatten
from unified_jax.models.tuned import Tuning
from unified_jax.runs.directory import load_experiment
from unified_jax.runs.recipe import open_recipe
from unified_jax.runs.resume import check_same_run
from unified_jax.runs.weight_transfer import plan_graft

NAMES = ("quickstart", "transfusion_world", "dit_fashion_mnist", "edm_fashion_mnist")


@pytest.fixture(scope="module", params=NAMES)
def old(request, tmp_path_factory):
    from tests.helpers import ROOT

    saved = json.loads((ROOT / "tests" / "legacy" / "runs" / f"{request.param}.json").read_text())
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "config.json").write_text(json.dumps(saved["config"]))
    return request.param, folder, saved


def recipe_of(name):
    """What that version trained."""
    if name == "quickstart":
        return open_recipe(name, ["--no-sharp", "--dtype", "network"])[0]
    found = open_recipe(name, [])[0]
    return with_its_documents(found) if name == "transfusion_world" else found


def with_its_documents(today):
    """transfusion_world before it went through captions."""
    rates = (("caption", 0.9), ("image", 0.85), ("video", 0.4))
    documents = dataclasses.replace(today.model.documents, text_first=0.35, text_last=0.15, keep_of=rates, clean=0.3)
    weights = (("text", 2.0), ("image", 45.0), ("video", 30.0), ("audio", 5.0), ("points", 10.0))
    plan = dataclasses.replace(today.preview.plan, through=())
    return dataclasses.replace(
        today,
        model=dataclasses.replace(today.model, documents=documents),
        balance=dataclasses.replace(today.balance, weights=weights),
        dtype="network",
        steps=2100,
        checkpoint=dataclasses.replace(today.checkpoint, every=300),
        preview=dataclasses.replace(today.preview, every=1050, plan=plan),
        validation=dataclasses.replace(today.validation, every=1050),
    )


def test_its_configuration_opens_as_todays(old):
    name, folder, saved = old
    today = recipe_of(name)
    plan = dataclasses.replace(today.preview.plan, complete=False)  # a way to sample, which came later
    today = dataclasses.replace(today, preview=dataclasses.replace(today.preview, plan=plan))
    assert load_experiment(folder) == today
    assert config_hash(from_plain(saved["config"])) == config_hash(today)


def test_it_may_be_resumed_and_no_other(old):
    name, folder, _ = old
    recipe = recipe_of(name)
    check_same_run(recipe, folder)
    with pytest.raises(UserError, match=r"batch_size \(\d+ -> 7\)"):
        check_same_run(dataclasses.replace(recipe, batch_size=7, accumulate=1), folder)


def test_its_parameters_are_where_they_were(old):
    name, _, saved = old
    model = recipe_of(name).model
    shapes = flatten(jax.eval_shape(model.init, jax.random.key(0)))
    assert {path: list(leaf.shape) for path, leaf in shapes.items()} == saved["parameters"]
    assert set(saved["terms"]) <= set(model.terms)


def test_a_new_model_starts_from_it(old):
    _, folder, saved = old
    experiment = load_experiment(folder)
    graft = plan_graft(experiment.model, experiment.model, Tuning())
    assert set(graft.taken) == set(saved["parameters"]) and not graft.fresh and not graft.left
