"""What a text leaves out of the objects that it names, drawn by its encoder (`SamplingPlan.complete`)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import stirred
from tests.models.test_encoded import PROMPTS, READER, STAGE, TEXT
from unified_jax.modalities.label import Label
from unified_jax.models.stages import STAGES
from unified_jax.models.streams import Condition
from unified_jax.models.text_classifier import TextClassifier
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.plan import SamplingPlan


def _reader(**fields: Any) -> TextClassifier:
    names = [(f"place{end}", f"colour{end}") for end in ("", "_2", "_3")]
    labels = tuple(
        Label(name, classes, absent=True) for pair in names for name, classes in zip(pair, (3, 2), strict=True)
    )
    return TextClassifier(STAGE.model, labels, tuple(names), **fields)


def _saying(reader: TextClassifier, *classes: int) -> Any:
    """Parameters whose heads say these classes of every text, the labels in their order."""
    params = reader.init(jax.random.key(0))
    for label, chosen in zip(reader.labels, classes, strict=True):
        params["heads"][label.name]["bias"] = jnp.zeros(label.classes + 1).at[chosen].set(9.0)
    return params


def test_what_a_text_leaves_out_of_an_object_is_drawn():
    """The first object has place 1 alone, the second colour 0 alone, the third nothing: it is not there."""
    reader = _reader(apart=("place",), vector="objects")
    params = _saying(reader, 1, 2, 3, 0, 3, 2)
    ids = jnp.repeat(jnp.asarray(PROMPTS[:1]), 600, axis=0)
    keys = jax.random.split(jax.random.key(3), len(ids))
    found: Any = reader.complete(params, ids, keys)
    tokens = np.asarray(found.tokens)
    np.testing.assert_allclose(np.unique(tokens), [0.0, np.sqrt(3.5)], rtol=1e-6)
    there = tokens > 0
    assert there[:, 0, 1].all()  # place 1, as the text says
    assert not there[:, 1, 1].any()  # no second object at the same place
    assert not there[:, :2, [3, 6]].any()  # nothing of them is left out
    assert there[:, 1, 4].all()  # colour 0
    assert there[:, 2, [3, 6]].all()  # the third object is not there
    for share in (there[:, 0, 4], there[:, 0, 5], there[:, 1, 0], there[:, 1, 2]):
        assert 0.42 < share.mean() < 0.58  # a half, five standard deviations of 600 draws being 0.1
    assert abs(np.corrcoef(there[:, 0, 4], there[:, 1, 0])[0, 1]) < 0.2
    np.testing.assert_array_equal(found.pooled, tokens.reshape(600, -1))
    some: Any = reader.complete(params, ids[5:9], keys[5:9])
    np.testing.assert_array_equal(some.tokens, tokens[5:9])  # sample i depends on its own key
    free: Any = _reader().complete(params, ids, keys)
    assert (np.asarray(free.tokens)[:, 1, 1] > 0).mean() > 0.2  # places may be the same where nothing says otherwise
    plain: Any = reader.encode(params, ids[:1])
    assert plain.tokens[0, 1, 3] > 0.9 * np.sqrt(3.5)  # not drawn unless asked


def test_objects_that_are_more_than_the_classes_share_one():
    reader = _reader(apart=("colour",))
    params = _saying(reader, 0, 0, 0, 1, 0, 2)
    keys = jax.random.split(jax.random.key(0), 4)
    found: Any = reader.complete(params, jnp.asarray(PROMPTS), keys)
    assert (np.asarray(found.tokens)[:, 2, 4:6] > 0).sum(1).tolist() == [1] * 4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"apart": ("colour_2",)}, "labels of the first of its objects; found 'colour_2'"),
        ({"objects": ()}, "names none"),
    ],
)
def test_a_vector_of_objects_and_labels_apart_need_objects(fields, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(_reader(vector="objects"), **fields)


def test_a_plan_that_completes_draws_what_a_caption_leaves_out():
    reader = _reader(vector="objects")
    stage = dataclasses.replace(STAGE, model=reader)
    reads = (Condition(TEXT, encoder=stage), Condition(TEXT, "vector", encoder=stage, part="pooled"))
    model = dataclasses.replace(READER, conditions=reads)
    params = {**stirred(model.init), STAGES: {"text": _saying(reader, 1, 2, 3, 2, 3, 2)}}
    given, keys = {"caption": jnp.asarray(PROMPTS)}, jax.random.split(jax.random.key(1), 4)
    plain, drawn = (model.conditions_of(params, given, 4, keys, complete) for complete in (False, True))
    for one in plain:
        assert np.ptp(np.asarray(one.value), axis=0).max() == 0  # all texts say the same
    assert np.ptp(np.asarray(drawn[0].value), axis=0).max() > 0
    np.testing.assert_array_equal(drawn[0].value.reshape(4, -1), drawn[1].value)  # drawn once for both
    plan = SamplingPlan(Euler(), steps=2)
    plans = (plan, dataclasses.replace(plan, complete=True))
    apart, whole = (np.asarray(model.generate(params, given, ("image",), keys, one)["image"]) for one in plans)
    assert np.abs(apart - whole).max() > 1e-3
