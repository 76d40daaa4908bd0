"""Conditions that a frozen encoder reads: tokens with lengths, vectors, nulls, negative prompts; sharded sampling."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import MODEL, keys_of, stirred
from unified_jax.errors import UserError
from unified_jax.layers.conditions import filled, key_range
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.text import Text
from unified_jax.models.generation import sampling
from unified_jax.models.sampling import generate_many
from unified_jax.models.stages import STAGES, Stage
from unified_jax.models.streams import Condition
from unified_jax.models.text_classifier import TextClassifier
from unified_jax.models.text_encoder import TextEncoder
from unified_jax.networks.bert import Bert
from unified_jax.networks.dit import DiT
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.guidance import Axis, Guidance
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.sharding import MeshShape, Rules, make_mesh, parameter_shardings

TEXT = Text(12)
STAGE = Stage("text", TextEncoder(Bert(vocabulary=256, length=12, width=16, depth=1, heads=2, hidden=16), TEXT))
TWO = (Condition(TEXT, encoder=STAGE), Condition(TEXT, "vector", encoder=STAGE, part="pooled"))
READER = dataclasses.replace(MODEL, network=DiT(depth=2, width=32, heads=4), conditions=TWO, flip=False)
PROMPTS = np.stack([TEXT.prepare(t) for t in ("a red star", "blue", "a ring", "two shapes")])


def whole_of(model):
    """Stirred parameters with those of the stage."""
    return {**stirred(model.init), STAGES: {"text": stirred(STAGE.model.init)}}


@pytest.fixture(scope="module")
def params():
    return whole_of(READER)


def network_output(model, params, ids):
    """What the network says of fixed noise under these texts, None for no text."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(len(PROMPTS), 16, 16, 3)), jnp.float32)
    given = {} if ids is None else {"caption": jnp.asarray(ids)}

    @jax.jit
    def call(params, given):
        conditions = model.conditions_of(params, given, len(x))
        return model.apply(params, model.process, x, jnp.full(len(x), 0.5), conditions)[0]

    return np.asarray(call(params, given))


def test_a_network_reads_tokens_up_to_their_length_and_the_vector(params):
    plain = network_output(READER, params, PROMPTS)
    assert not np.allclose(plain, network_output(READER, params, PROMPTS[::-1]), atol=1e-3)
    for i, condition in enumerate(TWO):  # each of the two alone changes what it says
        one = dataclasses.replace(READER, conditions=(TWO[1 - i], dataclasses.replace(condition, drop=0.0)))
        assert one.stages == READER.stages
    # Ids after the length are no text: whatever stands there, nothing changes where padding is masked.
    padded = dataclasses.replace(TEXT, length=12)
    shifted = np.where(PROMPTS < 0, -1, PROMPTS)
    np.testing.assert_array_equal(network_output(READER, params, shifted), plain)
    assert padded == TEXT
    # The stage has no part in the gradient.
    batch = {"image": np.zeros((4, 16, 16, 3), np.uint8), "caption": PROMPTS, "slot": np.arange(4, dtype=np.int32)}
    gradient = jax.jit(jax.grad(lambda p: READER.losses(p, {}, batch, jax.random.key(0))[0]["mse"][0].sum()))(params)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient[STAGES]))
    assert np.asarray(gradient["blocks"]["cross_caption"]["kv_kernel"]).any()
    assert np.asarray(gradient["vector_vector"]["fc1"]["kernel"]).any()


def test_padding_is_masked_zeroed_or_kept():
    encoded = STAGE.model.encode(stirred(STAGE.model.init), jnp.asarray(PROMPTS))
    shown = {
        kind: dataclasses.replace(TWO[0], padding=kind).shown({"caption": PROMPTS}, 4, encoded)
        for kind in ("mask", "zero", "keep")
    }
    length = np.asarray([10, 4, 6, 10])
    np.testing.assert_array_equal(shown["mask"].length, length)
    assert shown["zero"].length is None and shown["keep"].length is None
    there = np.arange(12) < length[:, None]
    np.testing.assert_array_equal(shown["zero"].value, np.where(there[..., None], encoded.tokens, 0.0))
    np.testing.assert_array_equal(shown["keep"].value, encoded.tokens)
    np.testing.assert_array_equal(key_range(shown["mask"], 3)[:, 2], np.stack([0 * length, length], 1))


def test_an_absent_text_is_one_learned_row(params):
    null = {**params, "null_caption": params["null_caption"] + 1.0}
    absent = network_output(READER, params, None)
    assert not np.allclose(absent, network_output(READER, null, None), atol=1e-3)
    np.testing.assert_array_equal(network_output(READER, null, PROMPTS), network_output(READER, params, PROMPTS))
    assert filled.__module__ == "unified_jax.layers.conditions"


def test_a_negative_prompt_stands_in_the_place_of_the_null(params):
    keys, given = keys_of(4), {"caption": jnp.asarray(PROMPTS)}
    plan = SamplingPlan(Euler(), steps=2, guidance=Guidance(3.0))
    against = jnp.asarray(PROMPTS[[1, 1, 1, 1]])
    asked = given | {"negative.caption": against}
    denoise, _, _, x = sampling(READER, params, asked, ("image",), keys, plan)
    t = jnp.full(4, 0.5)

    def alone(ids):
        found = sampling(
            READER, params, {"caption": ids}, ("image",), keys, dataclasses.replace(plan, guidance=Guidance())
        )
        return found.denoise(x, t).x0

    expected = alone(against) + 3.0 * (alone(given["caption"]) - alone(against))
    np.testing.assert_allclose(denoise(x, t).x0, expected, rtol=1e-4, atol=1e-4)
    axes = Guidance(axes=(Axis(("vector",), 2.0), Axis(("caption",), 4.0)))
    nested = sampling(READER, params, given, ("image",), keys, dataclasses.replace(plan, guidance=axes)).denoise(x, t)
    assert not np.allclose(nested.x0, denoise(x, t).x0)
    with pytest.raises(UserError, match=r"negative.shape: 'shape' is no condition of this model; it has caption"):
        READER.request(("negative.shape",), ())
    assert READER.request(("caption", "negative.caption"), ()) == (("caption",), ("image",))


def test_parameters_stay_sharded_while_sampling(params):
    mesh, rules = make_mesh(MeshShape(data=1, fsdp=8), jax.devices()[:8]), Rules()
    axes = {**READER.axes(), STAGES: {"text": STAGE.axes(READER)}}
    cuts = parameter_shardings(mesh, rules, axes, params)
    sharded = jax.tree.map(jax.device_put, params, cuts)
    first = jax.devices()[0]
    held = sum(s.data.nbytes for leaf in jax.tree.leaves(sharded) for s in leaf.addressable_shards if s.device == first)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert held < whole / 6  # biases and the like are on every device
    request = ({"caption": PROMPTS}, ("image",), 4, 0, SamplingPlan(Euler(), steps=2, guidance=Guidance(2.0)), 8, rules)
    alone = jax.tree.map(lambda x: jax.device_put(x, jax.devices()[0]), params)
    for one, other in ((sharded, alone),):
        made, expected = generate_many(READER, one, *request), generate_many(READER, other, *request)
        np.testing.assert_allclose(made["image"], expected["image"], rtol=1e-4, atol=1e-4)


def test_what_varies_is_not_cached():
    """A cache holds one encoding of a record; a random crop has another one at every step."""
    with pytest.raises(ValueError, match="which varies from step to step"):
        Condition(Image(8, 8, 3, flip=True), encoder=STAGE, cached=True)
    assert Condition(Image(8, 8, 3, fit="center_crop"), encoder=STAGE, cached=True).cached


def test_tokens_of_objects_are_what_the_heads_say_of_each():
    names = [(f"shape{end}", f"colour{end}") for end in ("", "_2")]
    labels = tuple(
        Label(name, classes, absent=True) for pair in names for name, classes in zip(pair, (3, 4), strict=True)
    )
    words = TextClassifier(STAGE.model, labels)
    reader = dataclasses.replace(words, objects=tuple(names))
    params = stirred(reader.init)
    ids = jnp.asarray(PROMPTS)
    found: Any = reader.encode(params, ids)
    plain = words.encode(params, ids)
    np.testing.assert_array_equal(found.pooled, plain.pooled)
    form = reader.condition_form("tokens")
    assert found.tokens.shape == (4, 2, 9) == (len(ids), form.length, form.features)
    assert list(found.length) == [2] * 4
    said = reader.logits(params, ids)
    expected = [np.exp(said[name] - jax.nn.logsumexp(said[name], axis=1, keepdims=True)) for name in names[1]]
    np.testing.assert_allclose(found.tokens[:, 1], np.sqrt(4.5) * np.concatenate(expected, axis=1), rtol=1e-5)
    assert words.condition_form("tokens").length == TEXT.length
    with pytest.raises(ValueError, match=r"some of shape, colour, shape_2, colour_2; found \('place',\)"):
        dataclasses.replace(words, objects=(("place",),))
    with pytest.raises(ValueError, match="labels of the same numbers of classes"):
        dataclasses.replace(words, objects=(("shape",), ("colour",)))
