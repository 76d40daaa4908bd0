"""Stages: frozen models beside a network, copied at a run's start, found again by checksum, never trained."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import EXPERIMENT
from unified_jax.api.run import load
from unified_jax.errors import UserError
from unified_jax.interop import files
from unified_jax.interop.names import flatten
from unified_jax.modalities.label import Label
from unified_jax.modalities.text import Text
from unified_jax.models.stages import Stage
from unified_jax.models.streams import Condition
from unified_jax.models.text_classifier import TextClassifier
from unified_jax.models.text_encoder import TextEncoder
from unified_jax.models.tuned import Tuning
from unified_jax.networks.bert import Bert
from unified_jax.networks.dit import DiT
from unified_jax.runs.loop import train
from unified_jax.runs.opened import open_run
from unified_jax.runs.stages import stage
from unified_jax.runs.start import Start
from unified_jax.training.experiment import Previews, Validation

pytestmark = pytest.mark.usefixtures("one_device")
TEXT = Text(16, too_long="crop")
BERT = Bert(vocabulary=256, length=16, width=8, depth=1, heads=2, hidden=8)
ENCODER = TextClassifier(TextEncoder(BERT, TEXT), (Label("shape", 6),))
SMALL = dataclasses.replace(EXPERIMENT, steps=2, preview=Previews(every=0), validation=Validation())


def drawn_from(stages, **changes):
    """Pictures from texts: one condition for the tokens of the first stage, one for the vector of the last."""
    first, last = stages[0], stages[-1]
    model = dataclasses.replace(
        EXPERIMENT.model,
        network=DiT(depth=1, width=16, heads=2),
        conditions=(Condition(TEXT, encoder=first), Condition(TEXT, "vector", encoder=last, part="pooled")),
    )
    return dataclasses.replace(SMALL, model=model, **changes)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "encoder"
    train(dataclasses.replace(SMALL, model=ENCODER), Start(run, quiet=True))
    return run


@pytest.fixture(scope="module")
def drawer(encoder, tmp_path_factory):
    """A run with two equal stages."""
    run = tmp_path_factory.mktemp("runs") / "drawer"
    stages = stage("text", encoder), dataclasses.replace(stage("text", encoder), name="again")
    train(drawn_from(stages), Start(run, quiet=True))
    return run


def test_a_stage_is_the_ema_of_its_source_and_two_equal_ones_are_one(encoder, drawer):
    source, whole = open_run(encoder)[1], open_run(drawer)[1]
    jax.tree.map(np.testing.assert_array_equal, whole["stages"]["text"], source)
    pairs = zip(*(jax.tree.leaves(whole["stages"][name]) for name in ("text", "again")), strict=True)
    assert all(one is other for one, other in pairs)
    assert [path.name for path in (drawer / "stages").glob("*.safetensors")] == ["text.safetensors"]
    state = json.loads((drawer / "config.json").read_text())
    assert state["model"]["conditions"][0]["encoder"]["name"] == "text"
