"""Text and image encoders: what reads what, positions at other sizes, sharding and bfloat16, and published sizes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image as Pillow

from unified_jax.interop.names import flatten, unflatten
from unified_jax.layers.resampling import matrix, resample
from unified_jax.networks.clip import TextTower
from unified_jax.networks.dinov2 import dinov2
from unified_jax.networks.siglip import pair_logits, siglip_loss, siglip_text, siglip_vision
from unified_jax.networks.t5 import T5Encoder, relative_buckets
from unified_jax.networks.vit import Vit
from unified_jax.sharding import MeshShape, Rules, logical_axes, make_mesh, parameter_shardings, unbox

TEXT = TextTower(vocabulary=24, length=8, width=16, depth=2, heads=4, hidden=32, projection=8, end=23)
T5 = T5Encoder(vocabulary=24, width=16, depth=2, heads=4, head_dim=8, hidden=32, buckets=8, reach=5, shared=False)
VIT = Vit(
    size=12, patch=3, width=16, depth=2, heads=4, hidden=32, registers=2, patch_bias=True, layer_scale=True, gated=True,
    activation="silu",
)  # fmt: skip
IDS = np.asarray([[5, 9, 23, 1, 1, 1, 1, 1], [7, 4, 3, 8, 6, 12, 2, 23]], np.int32)
IMAGES = np.random.default_rng(3).normal(size=(2, 12, 12, 3)).astype(np.float32)


@functools.cache
def boxed(network, image):
    given = jnp.zeros((1, 12, 12, 3)) if image else jnp.zeros((1, 2), jnp.int32)
    return jax.eval_shape(lambda: network.init(jax.random.key(0), given))["params"]


@functools.cache
def parameters(network, image=False):
    """Nothing is at zero, so that every part of the network matters."""
    rng = np.random.default_rng(0)
    near = {"gain": 1.0, "norm_gain": 1.0, "scale": 1.0}
    made = {
        name: (near.get(name.rpartition("/")[2], 0.0) + 0.3 * rng.normal(size=leaf.shape)).astype(np.float32)
        for name, leaf in flatten(unbox(boxed(network, image))).items()
    }
    return unflatten(made)


@functools.partial(jax.jit, static_argnums=0)
def apply(network, params, *given):
    return network.apply({"params": params}, *given)


def test_what_follows_the_end_of_a_text_changes_neither_it_nor_its_vector():
    one = apply(TEXT, parameters(TEXT), IDS)
    other = IDS.copy()
    other[0, 3:] = [4, 23, 0, 9, 9]
    two = apply(TEXT, parameters(TEXT), other)
    np.testing.assert_array_equal(one.pooled, two.pooled)
    np.testing.assert_array_equal(one.tokens[0, :3], two.tokens[0, :3])
    assert np.abs(one.tokens[0, 3:] - two.tokens[0, 3:]).max() > 0.1
    masked = apply(TEXT, parameters(TEXT), IDS, np.asarray([3, 8]))
    np.testing.assert_allclose(masked.tokens[1], one.tokens[1], atol=1e-6)
    assert np.abs(masked.tokens[0, 3:] - one.tokens[0, 3:]).max() > 1e-2  # padding itself reads the text alone


def test_t5_reads_as_far_as_the_length_and_no_padding():
    ids, length = np.tile(IDS, 2)[:, :12], np.asarray([5, 12])
    there = np.arange(12) < length[:, None]
    one = apply(T5, parameters(T5), ids, length).tokens
    two = apply(T5, parameters(T5), np.where(there, ids, 7), length).tokens
    short = apply(T5, parameters(T5), ids[:1, :5], length[:1]).tokens
    np.testing.assert_array_equal(one[there], two[there])
    np.testing.assert_allclose(short[0], one[0, :5], atol=1e-5)
    assert np.abs(apply(T5, parameters(T5), ids).tokens[0, :5] - one[0, :5]).max() > 1e-2


def test_relative_buckets_are_exact_near_and_logarithmic_far():
    """T5's 32: of a half of 16, 8 distances are their own, the rest by the logarithm up to 128."""
    row, column = relative_buckets(600, 32, 128)[:, 0], relative_buckets(600, 32, 128)[0]
    far = {d: min(8 + int(math.log(d / 8) / math.log(16) * 8), 15) for d in (8, 20, 127, 128, 500)}
    assert {d: int(row[d]) for d in far} == far
    assert row[:8].tolist() == list(range(8))
    assert column[1:8].tolist() == list(range(17, 24))
    assert [int(column[d]) for d in far] == [16 + bucket for bucket in far.values()]


def test_registers_shift_no_patch_and_positions_are_those_of_the_grid():
    params = parameters(VIT, True)
    found = apply(VIT, params, IMAGES)
    assert found.tokens.shape == (2, 1 + 2 + 16, 16)
    place = params | {"positions": params["positions"].copy()}
    place["positions"][1 + 6, 0] += 5.0  # the second row, the third column
    still = VIT.clone(depth=1)
    first = jax.tree.map(lambda a: a[:1] * 0, params["blocks"])  # blocks that change nothing
    one, two = (apply(still, p | {"blocks": first}, IMAGES).last for p in (params, place))
    changed = np.abs(one - two).max((0, 2))
    assert np.flatnonzero(changed > 1e-3).tolist() == [3 + 6]


def test_resampling_is_pillows_filter_and_the_identity_at_its_own_size():
    grid = jnp.asarray(np.random.default_rng(1).random((9, 7, 1)), jnp.float32)
    for kind, filter in (("cubic", Pillow.Resampling.BICUBIC), ("linear", Pillow.Resampling.BILINEAR)):
        for size in ((4, 5), (12, 3), (20, 21)):
            want = np.asarray(Pillow.fromarray(np.asarray(grid[..., 0])).resize(size[::-1], filter))
            np.testing.assert_allclose(resample(grid, size, kind, antialias=True)[..., 0], want, atol=2e-6)
    assert resample(grid, (9, 7), "cubic") is grid
    np.testing.assert_allclose(matrix(5, 5, "cubic"), np.eye(5), atol=1e-7)
    flat = resample(jnp.ones((3, 3, 2)), (7, 2), "cubic")
    np.testing.assert_allclose(flat, np.ones((7, 2, 2)), atol=1e-6)
    quarter = [-0.10546875, 0.87890625, 0.26171875, -0.03515625]  # torch's weights a quarter from a place
    np.testing.assert_allclose(matrix(8, 16, "cubic")[5], [0, *quarter, 0, 0, 0], atol=1e-7)


def test_the_sigmoid_loss_is_the_sum_over_all_pairs():
    rng = np.random.default_rng(2)
    image, text = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 4, 6)).astype(np.float32))
    scale, bias = jnp.asarray(math.log(10.0)), jnp.asarray(-3.0)
    logits = pair_logits(jnp.asarray(image), jnp.asarray(text), scale, bias)
    want = [
        sum(math.log(1 + math.exp(-(1 if i == j else -1) * (10 * image[i] @ text[j] - 3))) for j in range(4))
        for i in range(4)
    ]
    np.testing.assert_allclose(siglip_loss(logits), want, rtol=1e-4)
    order = rng.permutation(4)
    np.testing.assert_allclose(siglip_loss(logits[order][:, order]), np.asarray(want)[order], rtol=1e-4)


@pytest.mark.nightly
@pytest.mark.parametrize(("network", "given"), [(TEXT, IDS), (T5, IDS), (VIT, IMAGES)], ids=["clip", "t5", "vit"])
def test_shards_give_one_devices_numbers_and_bfloat16_is_near(network, given):
    image = network is VIT
    params, axes = parameters(network, image), logical_axes(boxed(network, image))
    plain = apply(network, params, given)
    given = np.concatenate([given, given])
    assert all(names[0] == "layers" for names in jax.tree.leaves(axes["blocks"], is_leaf=lambda x: type(x) is tuple))
    mesh, rules = make_mesh(MeshShape(data=2, fsdp=2, tensor=2)), Rules()
    cut = jax.device_put(params, parameter_shardings(mesh, rules, axes, params))
    assert cut["blocks"]["mlp"]["fc2"]["kernel"].addressable_shards[0].data.shape == (2, 16, 8)
    with rules.active(mesh):
        found = jax.jit(lambda p, x: network.apply({"params": p}, x))(cut, given)
    np.testing.assert_allclose(found.tokens[:2], plain.tokens, atol=1e-5)
    short = apply(network.clone(dtype="bfloat16"), params, given[:2]).tokens
    assert short.dtype == jnp.float32
    assert 1e-4 < np.abs(short - plain.tokens).max() < 0.3


PUBLISHED = {
    "CLIP ViT-L/14 text": (TextTower(), 123_060_480),
    "OpenCLIP ViT-bigG/14 text": (TextTower(width=1280, depth=32, heads=20, hidden=5120, projection=1280), 694_659_840),
    "Stable Diffusion 2 text": (TextTower(width=1024, depth=23, heads=16, hidden=4096), 340_387_840),
    "T5 v1.1 XXL": (T5Encoder(), 4_762_310_656),
    "UMT5 XXL": (T5Encoder(vocabulary=256_384, shared=False), 5_680_910_336),
    "CLIP ViT-L/14": (Vit(projection=768), 303_966_208),
    "SigLIP SO400M/14 at 384": (siglip_vision("SO400M/14", 384), 428_225_600),
    "DINOv2 B/14": (dinov2("B"), 86_580_480 - 768),  # less the mask token
    "DINOv2 g/14": (dinov2("g"), 1_136_480_768 - 1536),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_their_parameters(name):
    network, count = PUBLISHED[name]
    given = jnp.zeros((1, 28, 28, 3)) if isinstance(network, Vit) else jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), given))["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


def test_the_siglip_pair_has_its_parameters():
    text = jax.eval_shape(lambda: siglip_text().init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
    image = jax.eval_shape(lambda: siglip_vision().init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves((text, image))) == 203_155_970 - 2  # scale and bias


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TextTower(width=30, heads=4), "width 30 is not divisible by its 4 heads"),
        (lambda: TextTower(eps=0.0), "eps must be positive"),
        (lambda: apply(TEXT, parameters(TEXT), np.zeros((1, 9), np.int32)), "positions for 8 tokens, found rows of 9"),
        (lambda: T5Encoder(buckets=7), "buckets must be even"),
        (lambda: Vit(class_token=False), "pools at its class token"),
        (lambda: Vit(pool="none", projection=8), "projects no vector"),
        (lambda: apply(VIT, parameters(VIT, True), np.zeros((1, 2, 12, 3), np.float32)), "patches of 3, found images"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
