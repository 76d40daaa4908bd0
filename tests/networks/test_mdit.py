"""MDTv2 and GenTron, which have no reference: closed forms, parts, counts of parameters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import call_of, stirred
from unified_jax.layers.form import Backbone, ConditionInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.image import Image
from unified_jax.models.masked_diffusion import MaskedDiffusion
from unified_jax.networks.dit import DiT
from unified_jax.networks.gentron import GenTron, gentron_preset
from unified_jax.networks.mdit import Masked, MaskedDiT, draw_masked, masked_preset
from unified_jax.networks.mdit_block import relative_index
from unified_jax.sharding import MeshShape, Rules, logical_axes, make_mesh, parameter_shardings, unbox

IMAGE = Image(8, 12, 3, patch=2)
N = 24
MDIT = MaskedDiT(depth=5, decoders=1, width=16, heads=2)
GENTRON = GenTron(depth=4, width=16, heads=2)


def counted(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def picture(batch=2, key=0):
    x = jax.random.normal(jax.random.key(key), (batch, *IMAGE.shape))
    return call_of(IMAGE, x, jnp.linspace(0.1, 0.9, batch), [(4, np.arange(batch) % 3)])


def worded(batch=2, clip=6, t5=7, key=0):
    noisy, _ = picture(batch, key)
    forms = (("pooled", "vector", 5, 1), ("clip", "tokens", clip, 3), ("t5", "tokens", t5, 4))
    found = []
    for i, (name, kind, features, length) in enumerate(forms):
        shape = (batch, features) if kind == "vector" else (batch, length, features)
        form = ConditionForm(name, kind, features, length if kind == "tokens" else 1, null="zero")
        found.append(ConditionInput(form, jax.random.normal(jax.random.key(10 * key + i), shape)))
    return noisy, tuple(found)


CASES = {MDIT: picture, GENTRON: worded}


@functools.cache
def parameters(network):
    """Nothing is at zero, so that every part of the network matters."""
    shapes = unbox(jax.eval_shape(network.init, jax.random.key(0), *CASES[network]())["params"])
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jax.device_put((0.3 * rng.normal(size=s.shape)).astype(np.float32)), shapes)


@functools.partial(jax.jit, static_argnums=(0, 4), static_argnames=("room",))
def call(network, params, noisy, conditions, capture=(), order=None, kept=None, room=0):
    if order is None:
        return network.apply({"params": params}, noisy, conditions, capture=capture)
    return network.apply({"params": params}, noisy, conditions, masked=Masked(order, kept, room))


def permutations(batch=2):
    return jax.vmap(lambda k: jax.random.permutation(k, N))(jax.random.split(jax.random.key(5), batch))


def test_every_token_kept_in_any_order_is_the_full_pass():
    params, (noisy, labels) = parameters(MDIT), picture()
    full = call(MDIT, params, noisy, labels)[0]["image"]
    kept = call(MDIT, params, noisy, labels, order=permutations(), kept=jnp.full(2, N), room=N)[0]["image"]
    np.testing.assert_allclose(kept, full, atol=2e-5 * float(np.abs(full).max()))
    part = call(MDIT, params, noisy, labels, order=permutations(), kept=jnp.full(2, 13), room=16)[0]["image"]
    assert np.abs(part - full).max() > 1e-2


def test_hidden_tokens_are_read_by_the_shortcut_to_the_decoder_alone():
    """Without it, what is under the mask, and what the buffer holds beyond the kept tokens, changes nothing."""
    params, (noisy, labels) = parameters(MDIT), picture()
    join = params["decoders"]["join"]["kernel"]
    assert join.shape == (1, 32, 16)
    blind = params | {
        "decoders": params["decoders"] | {"join": params["decoders"]["join"] | {"kernel": join.at[:, 16:].set(0)}}
    }
    order, kept = permutations(), jnp.asarray([13, 9])
    rank = jnp.argsort(order, axis=1)
    shown = noisy[0].form.patches(noisy[0].x)
    other = jnp.where((rank >= kept[:, None])[..., None], 5.0 - shown, shown)
    moved = (noisy[0]._replace(x=noisy[0].form.unpatch(other)),)
    outs = [
        call(MDIT, p, given, labels, order=order, kept=kept, room=16)[0]["image"]
        for p, given in ((blind, noisy), (blind, moved), (params, noisy), (params, moved))
    ]
    np.testing.assert_allclose(outs[0], outs[1], atol=1e-5)
    assert np.abs(outs[2] - outs[3]).max() > 1e-2


def test_relative_places_and_counts_of_parameters_are_in_closed_form():
    index = relative_index(2, 3)
    assert index.shape == (6, 6) and set(index.ravel()) == set(range(15))
    assert len({index[i, i] for i in range(6)}) == 1 and index[0, 1] == index[3, 4] != index[1, 0]
    for network, d, h, depth, decoders in ((MDIT, 16, 2, 5, 1), (masked_preset("S"), 384, 6, 12, 4)):
        given = picture()
        found = counted(jax.eval_shape(network.init, jax.random.key(0), *given))
        block = 18 * d * d + 15 * d + (7 * 11 + 3) * h  # modulation 6, attention 4, MLP 8 of d^2; the relative table
        joins = (depth - decoders) // 2 + decoders
        ends = 12 * d + d + 2 * N * d + d + (257 * d + d * (d + 1)) + 4 * d + 2 * d * (d + 1) + 12 * (d + 1)
        assert found == (depth + 1) * block + joins * (2 * d * d + d) + ends


def test_masks_keep_a_share_of_each_row_and_depend_on_its_key():
    rows = jax.random.split(jax.random.key(1), 3)
    shares = set()
    for seed in range(20):
        masked = draw_masked(jax.random.key(seed), rows, N, 0.3, 0.5)
        assert masked.room == 16 and 12 <= int(masked.kept[0]) <= 16
        assert (np.sort(masked.order, axis=1) == np.arange(N)).all()
        shares.add(int(masked.kept[0]))
    assert len(shares) > 2
    alone = draw_masked(jax.random.key(0), rows[1:2], N, 0.3, 0.5)
    np.testing.assert_array_equal(alone.order[0], draw_masked(jax.random.key(0), rows, N, 0.3, 0.5).order[1])


MASKED = MaskedDiffusion(MaskedDiT(depth=3, decoders=1, width=16, heads=2), modality=IMAGE)


def test_a_masked_pass_has_terms_of_its_own_and_only_networks_with_masks_have_one():
    assert sorted(MASKED.terms) == ["mse", "mse_masked"]
    with pytest.raises(ValueError, match="network with masks"):
        MaskedDiffusion(DiT(depth=1, width=16, heads=2))
    with pytest.raises(ValueError, match="0 <= low <= high < 1"):
        dataclasses.replace(MASKED, low=0.6)


@pytest.mark.nightly
def test_both_passes_train_on_one_target():
    batch = {"image": np.zeros((3, 8, 12, 3), np.uint8), "slot": np.arange(3), "step": 0}
    fresh, losses = MASKED.init(jax.random.key(0)), jax.jit(lambda p, b: MASKED.losses(p, {}, b, jax.random.key(0))[0])
    terms = losses(fresh, batch)
    np.testing.assert_array_equal(terms["mse"][0], terms["mse_masked"][0])  # the output starts at zero
    assert (terms["mse"][0] > 0.5).all()
    terms = losses(stirred(MASKED.init), batch)
    assert (terms["mse"][0] != terms["mse_masked"][0]).all() and np.isfinite(terms["mse_masked"][0]).all()


NAMES = tuple(f"block/{i}" for i in range(4))


@pytest.mark.nightly
def test_blocks_of_gentron_start_as_the_identity():
    noisy, texts = worded()
    fresh = unbox(jax.jit(GENTRON.init)(jax.random.key(0), noisy, texts))["params"]
    _, found = call(GENTRON, fresh, noisy, texts, NAMES)
    for name in NAMES[1:]:
        np.testing.assert_array_equal(found[name], found["block/0"])


def test_blocks_of_gentron_read_the_texts_in_turn():
    noisy, texts = worded()
    params, (_, others) = parameters(GENTRON), worded(key=1)
    out, found = call(GENTRON, params, noisy, texts, NAMES)
    for i, first in ((0, 0), (1, 0), (2, 1)):  # pooled from the first block on, CLIP in block 0, T5 in block 1
        given = tuple(others[j] if j == i else texts[j] for j in range(3))
        moved, after = call(GENTRON, params, noisy, given, NAMES)
        assert np.abs(moved["image"] - out["image"]).max() > 1e-3
        assert [bool(np.abs(after[n] - found[n]).max() > 1e-4) for n in NAMES] == [j >= first for j in range(4)]


@pytest.mark.parametrize(("size", "parts", "paper"), [("XL", 828.1, 930.0), ("G", 2942.5, 3083.8)])
def test_gentron_counts_its_parts_and_is_smaller_than_the_paper_says(size, parts, paper):
    network = gentron_preset(size)
    noisy, texts = worded(clip=768, t5=4096)
    d, count = network.width, counted(jax.eval_shape(network.init, jax.random.key(0), noisy, texts))
    block = 22 * d * d + 21 * d  # modulation 6, attention 4, cross-attention 4 and its norm, MLP 8
    ends = 13 * d + 257 * d + d * (d + 1) + 6 * d + 769 * d + 4097 * d + 2 * d * (d + 1) + 12 * (d + 1)
    assert count - network.depth * block == pytest.approx(ends, abs=2 * 4097)  # and the nulls of the conditions
    print(f"GenTron-{size}: {count / 1e6:.1f} M parameters by its parts, {paper} M in the paper")
    assert count / 1e6 == pytest.approx(parts, abs=0.1)


@pytest.mark.nightly
@pytest.mark.parametrize("network", [MDIT, GENTRON], ids=["mdit", "gentron"])
def test_a_mesh_computes_the_same_and_bfloat16_is_near(network):
    assert isinstance(network, Backbone)
    given, params = CASES[network](batch=4), parameters(network)
    alone = call(network, params, *given)[0]["image"]
    boxed = jax.eval_shape(network.init, jax.random.key(0), *given)["params"]
    mesh, rules = make_mesh(MeshShape(data=2, fsdp=2, tensor=2)), Rules()
    cut = jax.device_put(params, parameter_shardings(mesh, rules, logical_axes(boxed), params))
    with rules.active(mesh):
        together = jax.jit(lambda p, *x: network.apply({"params": p}, *x)[0]["image"])(cut, *given)
    largest = float(np.abs(alone).max())
    np.testing.assert_allclose(together, alone, atol=1e-5 * largest)
    rough = call(network.clone(dtype="bfloat16"), params, *given)[0]["image"]
    assert rough.dtype == jnp.float32 and 1e-5 < float(np.abs(rough - alone).max()) / largest < 0.1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MaskedDiT(depth=6, decoders=1, width=16, heads=2), "even number of blocks"),
        (lambda: MaskedDiT(width=18, heads=2), "and by 4"),
        (lambda: GenTron(depth=0), "at least 1"),
        (lambda: GENTRON.clone(depth=3).init(jax.random.key(0), *worded()), "divide its depth; found 3"),
    ],
)
def test_sizes_that_do_not_fit_are_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()
