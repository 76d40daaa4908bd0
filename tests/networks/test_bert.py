"""BERT as an encoder: what is padding changes nothing, and every part that is a text does."""

import functools

import jax
import numpy as np
import pytest

from unified_jax.interop.names import flatten, unflatten
from unified_jax.modalities.bpe import wordpiece_json
from unified_jax.modalities.text import Text
from unified_jax.models.stages import Encoder
from unified_jax.models.text_encoder import TextEncoder
from unified_jax.models.tuned import ONE_INPUT
from unified_jax.networks.bert import Bert
from unified_jax.sharding import MeshShape, Rules, make_mesh, parameter_shardings

SMALL = Bert(vocabulary=60, length=16, width=32, depth=2, heads=4, hidden=64)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "ring", "##s", *"abcdefgh"]
ENCODER = TextEncoder(SMALL, Text(8, wordpiece_json(WORDS), too_long="crop"))
ROWS = np.asarray([[2, 9, 30, 8, 59, 3, -1, -1], [2, 3, -1, -1, -1, -1, -1, -1], [2, 5, 6, 7, 8, 9, 10, 3]], np.int32)


@functools.cache
def parameters():
    """Nothing is at zero, so that every part of the network matters."""
    rng = np.random.default_rng(0)
    draw = {"gain": lambda shape: 1 + 0.3 * rng.normal(size=shape)}
    made = {
        name: draw.get(name.rpartition("/")[2], lambda shape: 0.3 * rng.normal(size=shape))(leaf.shape)
        for name, leaf in flatten(jax.eval_shape(ENCODER.init, jax.random.key(0))).items()
    }
    return unflatten({name: value.astype(np.float32) for name, value in made.items()})


encode = jax.jit(ENCODER.encode)


@pytest.fixture(scope="module")
def plain():
    return jax.device_get(encode(parameters(), ROWS))


def test_an_encoder_gives_features_lengths_and_vectors_of_length_one(plain):
    assert isinstance(ENCODER, Encoder)
    assert (plain.tokens.shape, plain.tokens.dtype, plain.pooled.shape) == ((3, 8, 32), np.float32, (3, 32))
    assert plain.length.tolist() == [6, 2, 8]
    mean = np.stack([row[:n].mean(0) for row, n in zip(plain.tokens, plain.length, strict=True)])
    np.testing.assert_allclose(plain.pooled, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)


def test_padding_of_any_length_and_any_ids_changes_nothing(plain):
    """The network's own call, with more padding: the length alone says what is there."""
    there = np.arange(12) < plain.length[:, None]
    ids = np.pad(ROWS, ((0, 0), (0, 4)))
    before = np.where(there, ids, np.random.default_rng(0).integers(0, 60, ids.shape))
    call = jax.jit(lambda params, ids, length: SMALL.apply({"params": params}, ids, length))
    outs = []
    for after in (before, np.where(there, ids, 59), np.where(there, ids, np.flip(before, axis=1))):
        outs.append(np.asarray(call(parameters(), after.astype(np.int32), plain.length)))
        np.testing.assert_array_equal(outs[-1][there], outs[0][there])
    assert min(np.abs(out - outs[0])[~there].max() for out in outs[1:]) > 0.1
    np.testing.assert_allclose(outs[0][there], plain.tokens[there[:, :8]], atol=1e-5)


def test_order_and_every_token_of_the_text_matter(plain):
    swapped = ROWS.copy()
    swapped[0, [1, 3]] = ROWS[0, [3, 1]]
    swapped[2, 7] = 4
    moved = np.abs(jax.device_get(encode(parameters(), swapped)).tokens - plain.tokens)
    assert (moved[0, :6].max(-1) > 1e-3).all()
    assert (moved[2].max(-1) > 1e-3).all()
    assert moved[1].max() == 0


def test_a_row_without_a_text_is_finite():
    empty = jax.device_get(encode(parameters(), np.full((3, 8), -1, np.int32)))
    assert np.isfinite(empty.tokens).all()
    assert empty.length.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(empty.pooled, np.zeros((3, 32)))


def test_the_rules_shard_it_and_its_blocks_are_stacked(plain):
    axes = ENCODER.axes()
    assert all(names[0] == "layers" for names in jax.tree.leaves(axes["blocks"], is_leaf=lambda x: type(x) is tuple))
    assert axes["blocks"]["attention"]["qkv_kernel"] == ("layers", "embed", "heads", None, "head_dim")
    assert "qkv_kernel" in ONE_INPUT
    assert axes["blocks"]["fc1"]["kernel"] == ("layers", "embed", "mlp")
    mesh, rules = make_mesh(MeshShape(data=2, fsdp=2, tensor=2)), Rules()
    cut = jax.device_put(parameters(), parameter_shardings(mesh, rules, axes, parameters()))
    assert cut["blocks"]["fc1"]["kernel"].addressable_shards[0].data.shape == (2, 16, 32)
    with rules.active(mesh):
        found = jax.device_get(jax.jit(ENCODER.encode)(cut, np.concatenate([ROWS, ROWS[:1]])))
    np.testing.assert_allclose(found.tokens[:3], plain.tokens, atol=1e-5)


def test_its_parts_are_conditions():
    tokens, pooled = (ENCODER.condition_form(part) for part in ("tokens", "pooled"))
    assert (tokens.name, tokens.kind, tokens.features, tokens.length, tokens.null) == (
        "caption",
        "tokens",
        32,
        8,
        "learned",
    )
    assert (pooled.kind, pooled.features, pooled.null) == ("vector", 32, "learned")
    with pytest.raises(ValueError, match="has no map; its parts are tokens and pooled"):
        ENCODER.condition_form("map")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Bert(width=30, heads=4), "width 30 is not divisible by its 4 heads"),
        (lambda: Bert(types=0), "types must be at least 1"),
        (lambda: Bert(eps=0.0), "eps must be positive"),
        (lambda: TextEncoder(Bert(vocabulary=14), ENCODER.text), "tokenizer has 15 ids, the network 14"),
        (lambda: TextEncoder(Bert(length=7), ENCODER.text), "up to 8 tokens, the network 7 positions"),
        (lambda: encode(parameters(), np.zeros((1, 17), np.int32)), "positions for 16 tokens, found rows of 17"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
