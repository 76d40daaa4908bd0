"""Published and diffusers layouts: exact round trips, sizes from shapes, and a full account of what does not fit."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from unified_jax.cli.convert import dit_process, experiment_of
from unified_jax.errors import UserError
from unified_jax.interop import diffusers_dit, dit
from unified_jax.interop.dit_sizes import Sizes, classes_of, heads_of
from unified_jax.interop.names import account, flatten, shapes, unflatten
from unified_jax.layers.embeddings import sincos_positions
from unified_jax.modalities.image import Image
from unified_jax.networks.dit import SIZES as PUBLISHED

SIZES = Sizes(depth=2, width=16, heads=2, hidden=64, patch=2, channels=3, outputs=1, rows=6, side=2)


def weights_of(path):
    return {name[6:]: value for name, value in load_file(path).items() if name.startswith("param/")}


@pytest.fixture
def weights(root):
    return weights_of(root / "tests" / "goldens" / "dit_small.safetensors")


def same(a, b):
    return set(a) == set(b) and all(a[n].tobytes() == b[n].tobytes() and a[n].shape == b[n].shape for n in a)


def test_sizes_and_round_trips_are_exact(weights):
    params, sizes = dit.read(weights, heads=2)
    assert sizes == SIZES
    assert shapes(flatten(params)) == sizes.tree()
    assert same(dit.write(params, sizes), weights)
    theirs = diffusers_dit.write(params, sizes)
    again, measured = diffusers_dit.read(theirs, size=4, heads=2)
    assert measured == sizes
    assert same(flatten(again), flatten(params))
    assert same(diffusers_dit.write(again, measured), theirs)


@pytest.mark.parametrize(("name", "heads"), [("dit_s2_learnsigma", 4), ("dit_p4_nosigma_nodrop", 6), ("sit_s2", 4)])
def test_round_trips_of_the_reference_weights(shared_goldens, name, heads):
    weights = weights_of(shared_goldens / f"{name}.safetensors")
    params, sizes = dit.read(weights, heads)
    assert sizes.outputs == (1 if "nosigma" in name else 2)
    assert same(dit.write(params, sizes), weights)


def test_blocks_with_embedders_of_their_own_are_refused(shared_goldens):
    weights = weights_of(shared_goldens / "diffusers_dit.safetensors")
    with pytest.raises(UserError, match=r"cannot represent.*transformer_blocks\.2\.norm1\.emb\.class_embedder"):
        diffusers_dit.read(weights, size=8, heads=4)
    for name in [n for n in weights if ".norm1.emb." in n]:
        weights[name] = weights["transformer_blocks.0." + name.split(".", 2)[2]]
    params, sizes = diffusers_dit.read(weights, size=8, heads=4)
    assert same(diffusers_dit.write(params, sizes), weights)


@pytest.mark.parametrize("size", ["S", "B", "L", "XL"])
def test_the_published_sizes_fill_our_tree(size):
    """The declared shapes are those the network initialises, for every published size."""
    depth, width, heads = PUBLISHED[size]
    assert heads_of(width, None) == heads
    sizes = Sizes(depth, width, heads, 4 * width, 2, 4, 2, 1001, 16)
    model = experiment_of(sizes, dit_process(sizes), 1000).model
    found = jax.eval_shape(model.init, jax.random.key(0))
    assert shapes(flatten(found)) == sizes.tree()
    assert sum(np.prod(s, dtype=int) for s in sizes.tree().values()) == sum(
        np.prod(s, dtype=int) for name, s in sizes.official().items() if name != "pos_embed"
    )


def test_everything_that_does_not_fit_is_listed_at_once(weights):
    weights["extra.weight"] = weights.pop("blocks.1.mlp.fc2.bias")
    del weights["t_embedder.mlp.2.weight"]
    weights["blocks.0.attn.qkv.weight"] = weights["blocks.0.attn.qkv.weight"].T
    weights["final_layer.linear.bias"] = weights["final_layer.linear.bias"][:-1]
    with pytest.raises(UserError) as caught:
        dit.read(weights, heads=2)
    said = str(caught.value)
    assert "unmapped: extra.weight." in said
    assert "missing: blocks.1.mlp.fc2.bias, t_embedder.mlp.2.weight." in said
    assert "blocks.0.attn.qkv.weight found [16, 48] expected [48, 16]" in said
    assert "final_layer.linear.bias found [11] expected [12]" in said


def test_the_account_is_full_where_sizes_cannot_be_read(weights):
    del weights["pos_embed"], weights["blocks.0.mlp.fc2.weight"]
    weights["x_embedder.proj.weight"] = weights["x_embedder.proj.weight"].reshape(16, -1)
    weights["blocks.5.mlp.fc1.bias"] = weights["blocks.1.mlp.fc1.bias"]
    with pytest.raises(UserError) as caught:
        dit.read(weights, heads=2)
    said = str(caught.value)
    assert "unmapped: blocks.5.mlp.fc1.bias." in said
    assert "blocks.0.mlp.fc2.weight" in said
    assert "pos_embed" in said
    assert "x_embedder.proj.weight found [16, 12] expected [width, channels, patch, patch]" in said
    with pytest.raises(UserError, match=r"unmapped: .*missing: pos_embed\.proj\.bias"):
        diffusers_dit.read(weights, size=4, heads=2)


def test_our_tree_is_accounted_for_too(weights):
    params, sizes = dit.read(weights, heads=2)
    params["blocks"]["attention"]["q_scale"] = np.ones((2, 8), np.float32)
    del params["final"]["bias"]
    with pytest.raises(UserError, match=r"unmapped: blocks/attention/q_scale\. missing: final/bias\."):
        dit.write(params, sizes)
    with pytest.raises(UserError, match="wrong shape: label_0/table found"):
        dit.write(dit.read(weights, heads=2)[0], dataclasses.replace(sizes, rows=9))


def test_positions_are_ours(weights):
    image = Image(12, 12, 3, patch=2)
    ours = np.asarray(sincos_positions(jnp.asarray(image.positions()), 32))
    np.testing.assert_allclose(dit.position_table(32, 6), ours, atol=2e-6)
    weights["pos_embed"] = weights["pos_embed"][:, ::-1]
    with pytest.raises(UserError, match="pos_embed differs from the sin-cos table of 2 x 2 patches"):
        dit.read(weights, heads=2)


@pytest.mark.parametrize(
    "casts",
    [("float16",), ("bfloat16",), ("float16", "bfloat16"), ("bfloat16", "float16"), ("float8_e4m3fn",),
     ("bfloat16", "float8_e4m3fn"), ("float16", "float8_e5m2")],
)  # fmt: skip
def test_a_rounded_position_table_is_still_the_table(casts):
    """Of a large grid; what was trained is refused, also where it is stored in half precision."""
    table = dit.position_table(384, 16)
    trained = table + np.random.default_rng(0).normal(0, 0.01, table.shape).astype(np.float32)
    for dtype in casts:
        table, trained = (x.astype(getattr(ml_dtypes, dtype, dtype)).astype(np.float32) for x in (table, trained))
    sizes = dataclasses.replace(SIZES, width=384, hidden=4, side=16, depth=1)
    weights = {name: np.zeros(shape, np.float32) for name, shape in sizes.official().items()}
    params, _ = dit.read(weights | {"pos_embed": table[None]}, 6)
    assert np.array_equal(
        dit.write(params, dataclasses.replace(sizes, heads=6))["pos_embed"][0], dit.position_table(384, 16)
    )
    for other in (trained, dit.position_table(384, 16) + 3e-5, table[::-1]):
        with pytest.raises(UserError, match="it was trained, or is another table"):
            dit.read(weights | {"pos_embed": other[None]}, 6)


def test_what_shapes_do_not_tell_is_asked_for(weights):
    with pytest.raises(UserError, match="no trace in weights of width 16; give it with --heads"):
        dit.read(weights)
    for heads in (3, 0, -1):
        with pytest.raises(UserError, match=f"does not fit {heads} heads"):
            dit.read(weights, heads=heads)
    params, sizes = dit.read(weights, heads=2)
    with pytest.raises(UserError, match="side 5 is not divisible into patches of side 2"):
        diffusers_dit.read(diffusers_dit.write(params, sizes), size=5, heads=2)
    assert (classes_of(1001, None), classes_of(1000, None), classes_of(6, None), classes_of(6, 6)) == (1000, 1000, 5, 6)
    with pytest.raises(UserError, match=r"--classes 9: the label table has 6 rows; expected 6 \(no null row\) or 5"):
        classes_of(6, 9)
    with pytest.raises(UserError, match="four times as wide as 16, found 32"):
        diffusers_dit.write(params, dataclasses.replace(sizes, hidden=32))


def test_dropping_the_variance_keeps_the_first_channels(weights):
    params, sizes = dit.read(weights, heads=2)
    kernel = params["final"]["kernel"].reshape(16, 4, 3)
    double = np.concatenate([kernel, kernel + 1], axis=-1).reshape(16, -1)
    bias = np.concatenate([params["final"]["bias"].reshape(4, 3), np.ones((4, 3), np.float32)], axis=-1).reshape(-1)
    doubled = params | {"final": {"kernel": double, "bias": bias}}
    found, single = dit.without_variance(doubled, dataclasses.replace(sizes, outputs=2))
    assert single == sizes
    assert same(flatten(found), flatten(params))


def test_names():
    tree = {"a": {"b": np.zeros(2), "c": {"d": np.ones(1)}}, "e": np.zeros(3)}
    assert sorted(flatten(tree)) == ["a/b", "a/c/d", "e"]
    assert shapes(flatten(unflatten(flatten(tree)))) == shapes(flatten(tree))
    with pytest.raises(UserError, match=r"X cannot be converted\. unmapped: b\. missing: a\.$"):
        account("X", {"b": (1,)}, {"a": (1,)})
