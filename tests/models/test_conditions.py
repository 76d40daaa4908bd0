"""Conditions of all five kinds reach a network, with what is not there; and how training leaves them out."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.small import Spy, Words, batch_of, close, spied_losses, spied_samples
from unified_jax.errors import UserError
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.numbers import Numbers
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.streams import Condition
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.samplers.guidance import Guidance

TINY = Image(2, 2, 1, patch=1)
LOW = Image(2, 4, 1, patch=1, name="low")
FIVE = (
    Label("shape", 5),
    Numbers("features", 4),
    Numbers("crop", 2, kind="scalars"),
    Words(),
    LOW,
)
KINDS = ("label", "vector", "scalars", "tokens", "map")
MODEL = Diffusion(Spy(), modality=TINY, conditions=FIVE, drop_all=0.0)


def lost(shown):
    """Which conditions a training step left out, `[rows, conditions]`; every example has them all."""
    nulls = [c.value == c.form.features - 1 if c.present is None else ~c.present for c in shown.values()]
    return np.stack(nulls, axis=1)


def test_all_kinds_reach_the_network_in_training():
    batch = batch_of(MODEL, 3)
    _, shown, _, _ = spied_losses(MODEL, batch)
    assert tuple(c.form.kind for c in shown.values()) == KINDS
    assert [c.form.features for c in shown.values()] == [6, 4, 2, 2, 1]
    assert shown["words"].form.length == 3
    for field in FIVE:
        one = shown[field.name]
        close(one.value, field.to_condition(batch[field.name]))
        assert one.present is None if field.name == "shape" else np.asarray(one.present).all()
    assert shown["low"].value.shape == (3, 2, 4, 1)
    assert float(shown["low"].value.min()) < 0  # in model space


def test_what_is_not_given_is_null():
    batch = batch_of(MODEL, 2)
    given = {name: batch[name] for name in ("crop", "words")}
    (_, shown), *_ = spied_samples(MODEL, given, ("image",), 2, 1)[0]
    np.testing.assert_array_equal(shown["shape"].value, [5, 5])
    for name in ("features", "low"):
        np.testing.assert_array_equal(shown[name].value, np.zeros_like(shown[name].value))
        np.testing.assert_array_equal(shown[name].present, [False, False])
    for name in given:
        np.testing.assert_array_equal(shown[name].value, batch[name])
        np.testing.assert_array_equal(shown[name].present, [True, True])


def test_guidance_leaves_out_all_that_has_a_null():
    model = dataclasses.replace(MODEL, conditions=(*FIVE[:3], Words(null="none"), LOW))
    batch = batch_of(model, 2)
    given = {field.name: batch[field.name] for field in model.conditions}
    (_, every), (_, none) = spied_samples(model, given, ("image",), 2, 1, Guidance(2.0))[0]
    for name, c in none.items():
        if name == "words":
            np.testing.assert_array_equal(c.value, batch["words"])
            assert np.asarray(c.present).all()
        else:
            np.testing.assert_array_equal(c.value, np.full_like(c.value, 5 if name == "shape" else 0))
            assert not np.array_equal(every[name].value, c.value)


def test_guidance_keeps_a_condition_that_is_not_guided():
    """Both predictions read a ControlNet's hint, as published; by default the other one reads it as absent."""
    model = dataclasses.replace(MODEL, conditions=(FIVE[0], Condition(LOW, guided=False)))
    batch = batch_of(model, 2)
    given = {name: batch[name] for name in ("shape", "low")}
    (_, every), (_, none) = spied_samples(model, given, ("image",), 2, 1, Guidance(2.0))[0]
    np.testing.assert_array_equal(none["shape"].value, [5, 5])
    np.testing.assert_array_equal(none["low"].value, every["low"].value)
    assert np.asarray(none["low"].present).all()


def test_one_caption_may_be_several_conditions():
    words = (Condition(Words(), "clip"), Condition(Words(), "long", drop=1.0))
    model = dataclasses.replace(MODEL, conditions=words)
    assert [m.name for m in model.modalities] == ["image", "words"]
    batch = batch_of(model, 2)
    _, shown, _, _ = spied_losses(model, batch)
    np.testing.assert_array_equal(shown["clip"].value, batch["words"])
    np.testing.assert_array_equal(shown["long"].present, [False, False])


def test_each_is_dropped_by_itself():
    rates = (0.1, 0.5, 0.3, 0.0, 0.7)
    model = dataclasses.replace(
        MODEL, conditions=tuple(Condition(one, drop=p) for one, p in zip(FIVE, rates, strict=True))
    )
    _, shown, _, _ = spied_losses(model, batch_of(model, 4000))
    found = lost(shown)
    np.testing.assert_allclose(found.mean(0), rates, atol=0.03)
    assert not found[:, 3].any()
    assert (found[:, 1] & found[:, 4]).mean() == pytest.approx(0.35, abs=0.03)  # independently of each other
    for name in ("features", "crop", "words", "low"):
        there = np.asarray(shown[name].present)
        np.testing.assert_array_equal(np.abs(shown[name].value).reshape(4000, -1).max(1) > 0, there)


def test_all_are_dropped_together_but_what_has_no_null():
    model = dataclasses.replace(MODEL, conditions=(*FIVE[:3], Words(null="none"), LOW), drop_all=0.3)
    batch = batch_of(model, 4000)
    _, shown, _, _ = spied_losses(model, batch)
    found = np.delete(lost(shown), 3, axis=1)
    assert (found.all(1) == found.any(1)).all()
    assert found.mean() == pytest.approx(0.3, abs=0.03)
    np.testing.assert_array_equal(shown["words"].value, batch["words"])
    assert np.asarray(shown["words"].present).all()


def test_some_are_dropped_in_all_numbers_alike():
    model = dataclasses.replace(MODEL, drop_some=0.6)
    found = lost(spied_losses(model, batch_of(model, 4000))[1])
    counts = np.bincount(found.sum(1), minlength=6) / 4000
    np.testing.assert_allclose(counts, [0.4 + 0.1, *[0.1] * 5], atol=0.03)
    np.testing.assert_allclose(found.mean(0), np.full(5, 0.3), atol=0.03)


def test_a_map_is_flipped_with_the_image():
    clean = RectifiedFlow(noise_end=1e-4)  # what the network is shown is nearly the example
    image = Image(2, 4, 1, patch=1)
    model = dataclasses.replace(MODEL, modality=image, process=clean, flip=True)
    batch = batch_of(model, 40)
    batch["low"] = batch["image"]
    noisy, shown, _, _ = spied_losses(model, batch)
    np.testing.assert_allclose(noisy["image"].x, shown["low"].value, atol=2e-3)
    x0 = image.to_model(batch["image"])
    same, turned = (np.asarray(jnp.abs(shown["low"].value - x).max((1, 2, 3)) < 1e-5) for x in (x0, x0[:, :, ::-1]))
    assert (same ^ turned).all()
    assert 0.2 < turned.mean() < 0.8
    np.testing.assert_array_equal(shown["words"].value, batch["words"])  # and nothing else is


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "vector"}, "only a label's null is a row"),
        ({"kind": "label", "features": 0}, "features and length of at least 1"),
    ],
)
def test_forms_that_cannot_be(fields, words):
    with pytest.raises(ValueError, match=words):
        ConditionForm(**({"name": "one", "features": 3} | fields))


def test_a_condition_without_a_null_must_be_given():
    model = dataclasses.replace(MODEL, conditions=(Words(null="none"),))
    with pytest.raises(UserError, match="no null: give 'words'"):
        spied_samples(model, {}, ("image",), 2, 1)
