"""U-ViT and PixArt: released sizes, who shares a time, what is read, other sizes, meshes, bfloat16 and training."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.small import batch_of, joint, weights
from unified_jax.kernels.inputs import Modulation
from unified_jax.layers.form import Backbone, ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.networks.pixart import PixArt, positions
from unified_jax.networks.pixart_block import CompressedAttention
from unified_jax.networks.uvit import SIZES, UVit
from unified_jax.sharding import MeshShape, Rules, logical_axes, make_mesh, parameter_shardings, unbox

UVIT = UVit(
    depth=2, width=16, heads=4, norms="post", clocks=("image", "text"), grid=(2, 2), time_mlp=True, remat="none"
)
PLAIN = UVit(depth=4, width=16, heads=4, conv=True, remat="none")
PIXART = PixArt(depth=2, width=24, heads=4, base=2, remat="none")


def stream(name, shape, cut, t, seed=0, outputs=None):
    x = np.random.default_rng(seed).normal(size=(len(t), *shape)).astype(np.float32)
    return NoisyInput(Form(name, shape, cut, outputs or shape[-1]), jax.device_put(x), jax.device_put(np.float32(t)))


def condition(name, kind, value, rows=None, length=None):
    null, count = ("row", 1) if kind == "label" else ("none", value.shape[1] if kind == "tokens" else 1)
    form = ConditionForm(name, kind, rows or value.shape[-1], count, null)
    return ConditionInput(form, jax.device_put(value), length=length)


def streams(t=(3.0, 900.0), text=(7.0, 500.0), clip=None, side=4, batch=1):
    t, text, clip = (tuple(times) * batch for times in (t, text, clip or t))
    return (
        stream("image", (side, side, 3), (2, 2), t, outputs=6),
        stream("clip", (1, 5), (1,), clip, 1),
        stream("text", (3, 6), (1,), text, 2),
    )


def conditions(batch=1):
    rng = np.random.default_rng(5)
    length = jax.device_put(np.asarray([2, 4] * batch, np.int32))
    tokens = np.tile(rng.normal(size=(2, 4, 7)), (batch, 1, 1)).astype(np.float32)
    return (
        condition("kind", "label", np.asarray([1, 0] * batch, np.int32), 3),
        condition("vector", "vector", np.tile(rng.normal(size=(2, 5)), (batch, 1)).astype(np.float32)),
        condition("caption", "tokens", tokens, length=length),
    )


def picture(batch=1):
    return (stream("image", (4, 4, 3), (2, 2), (3.0, 900.0) * batch),)


CASES = {"post": (UVIT, streams), "pre": (PLAIN, picture), "pixart": (PIXART, picture)}


@functools.cache
def boxed(network, given):
    return jax.eval_shape(lambda: network.init(jax.random.key(0), given(), conditions()))["params"]


@functools.cache
def parameters(name):
    """Nothing is at zero, so that every part of the network matters."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jax.device_put((0.3 * rng.normal(size=leaf.shape)).astype(np.float32)), unbox(boxed(*CASES[name]))
    )


@functools.partial(jax.jit, static_argnums=(0, 4))
def call(network, params, noisy, given, capture=()):
    return network.apply({"params": params}, noisy, given, capture=capture)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["post", "pixart"])
def test_a_mesh_of_eight_computes_the_same(name):
    network, given = CASES[name]
    assert isinstance(network, Backbone)
    params, axes = parameters(name), logical_axes(boxed(*CASES[name]))
    alone, _ = call(network, params, given(batch=4), conditions(4))
    mesh, rules = make_mesh(MeshShape(data=2, fsdp=2, tensor=2)), Rules()
    cut = jax.device_put(params, parameter_shardings(mesh, rules, axes, params))
    with rules.active(mesh):
        together, _ = jax.jit(lambda p, x, c: network.apply({"params": p}, x, c))(cut, given(batch=4), conditions(4))
    for key, value in alone.items():
        np.testing.assert_allclose(together[key], value, atol=1e-5 * float(np.abs(value).max()))


@pytest.mark.parametrize("name", ["post", "pixart"])
def test_every_condition_is_read_and_padding_is_not(name):
    network, given = CASES[name]
    out, _ = call(network, parameters(name), given(), conditions())
    for i, one in enumerate(conditions()):
        changed = list(conditions())
        changed[i] = one._replace(value=one.value[::-1])
        moved, _ = call(network, parameters(name), given(), tuple(changed))
        assert all(np.abs(moved[key] - out[key]).max() > 1e-3 for key in out), one.form.name
    kind, vector, caption = conditions()
    padded = caption._replace(value=caption.value.at[0, 2:].set(7.0))  # the first text has two tokens
    same, _ = call(network, parameters(name), given(), (kind, vector, padded))
    assert all(np.abs(same[key] - out[key]).max() < 1e-5 for key in out)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["post", "pixart"])
def test_bfloat16_is_near(name):
    network, given = CASES[name]
    out, _ = call(network, parameters(name), given(), conditions())
    rough, _ = call(network.clone(dtype="bfloat16"), parameters(name), given(), conditions())
    for key, value in out.items():
        assert rough[key].dtype == jnp.float32
        assert 1e-4 < np.abs(rough[key] - value).max() / np.abs(value).max() < 0.1


def test_streams_of_one_clock_have_one_time_and_each_output_reads_every_stream():
    kept = ("block/0", "block/2", "attention")
    out, found = call(UVIT, parameters("post"), streams(), (), kept)
    shapes = {"image": (2, 4, 4, 6), "clip": (2, 1, 5), "text": (2, 3, 6)}
    assert {key: value.shape for key, value in out.items()} == shapes
    assert found["block/0"].shape == (2, 4 + 1 + 3, 16)
    assert found["attention"].shape == (3, 2, 4, 10, 10)
    unread, _ = call(UVIT, parameters("post"), streams(clip=(11.0, 13.0)), (), kept)
    np.testing.assert_allclose(unread["clip"], out["clip"], atol=1e-6)
    for changed in (streams(t=(4.0, 900.0)), streams(text=(8.0, 500.0))):
        moved, _ = call(UVIT, parameters("post"), changed, (), kept)
        for key, value in out.items():
            assert np.abs(moved[key][0] - value[0]).max() > 1e-4
            np.testing.assert_allclose(moved[key][1], value[1], atol=1e-5)
    large = jax.eval_shape(lambda p: UVIT.apply({"params": p}, streams(side=6)), parameters("post"))[0]
    assert large["image"].shape == (2, 6, 6, 6)


@pytest.mark.nightly
def test_out_blocks_join_what_was_kept_last_first():
    """With branches that change nothing, and joins that take what was kept alone, the output is the input."""
    params = jax.tree.map(lambda p: jax.device_put(np.zeros(p.shape, np.float32)), parameters("pre"))
    width = PLAIN.width
    params = params | {name: value for name, value in parameters("pre").items() if name.startswith("image_")}
    params["norm"] = {"gain": jnp.ones(width), "bias": jnp.zeros(width)}
    take = jnp.concatenate([jnp.zeros((width, width)), jnp.eye(width)])
    params["out_blocks"]["join"]["kernel"] = jnp.stack([jnp.zeros_like(take), take])  # of the first block's x
    one, found = call(PLAIN, params, picture(), conditions(), ("block/0", "block/4"))
    np.testing.assert_allclose(found["block/4"], found["block/0"], atol=1e-6)
    params["in_blocks"]["mlp"]["fc2"]["bias"] = jnp.stack([jnp.zeros(width), jnp.arange(float(width))])
    two, _ = call(PLAIN, params, picture(), conditions())  # the second in-block is joined by the first out-block
    np.testing.assert_allclose(two["image"], one["image"], atol=1e-6)


def test_positions_are_scaled_to_the_base_grid():
    table = positions(8, (4, 2), 2, 1.0)
    at = np.asarray([0.0, 0.5, 1.0, 1.5])
    np.testing.assert_allclose(table[::2, 4:6], np.stack([np.sin(at), np.sin(at / 100)], 1), atol=1e-6)
    np.testing.assert_allclose(table[:2, 0], np.sin([0.0, 1.0]), atol=1e-6)  # columns first
    np.testing.assert_allclose(positions(8, (4, 4), 4, 2.0), positions(8, (4, 4), 2, 1.0))
    np.testing.assert_allclose(positions(8, (4, 4), 0, 1.0), positions(8, (4, 4), 4, 1.0))


@pytest.mark.nightly
def test_pixart_reads_sizes():
    sizes = (condition("size", "scalars", np.asarray([[512.0, 384.0], [300.0, 700.0]], np.float32)),)
    sizes += (condition("aspect", "scalars", np.asarray([[0.75], [0.4]], np.float32)),)
    shapes = jax.eval_shape(PIXART.init, jax.random.key(0), picture(), sizes)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: jax.device_put((0.3 * rng.normal(size=s.shape)).astype(np.float32)), unbox(shapes))
    assert params["size_fc1"]["kernel"].shape == (256, 8)
    out, _ = call(PIXART, params, picture(), sizes)
    for i, size in enumerate(sizes):
        moved = list(sizes)
        moved[i] = size._replace(value=size.value * 1.5)
        assert np.abs(call(PIXART, params, picture(), tuple(moved))[0]["image"] - out["image"]).max() > 1e-4
    with pytest.raises(ValueError, match="reads 3 sizes, each to a third of its width; found 1"):
        jax.eval_shape(PIXART.init, jax.random.key(0), picture(), sizes[1:])


@pytest.mark.nightly
def test_compressed_attention_keeps_one_normed_mean_of_each_square():
    rng = np.random.default_rng(4)
    layer = CompressedAttention(2, 2, (4, 2), True, 1e-6, jnp.dtype("float32"), "xla")
    x, rows = rng.normal(size=(1, 8, 8)).astype(np.float32), rng.normal(size=(3, 1, 1, 8)).astype(np.float32)
    modulation = Modulation(*map(jax.device_put, rows))
    shapes = unbox(jax.eval_shape(layer.init, jax.random.key(0), jnp.asarray(x), modulation))["params"]
    params = jax.tree.map(lambda s: (0.5 * rng.normal(size=s.shape)).astype(np.float32), shapes)
    start = unbox(jax.jit(layer.init)(jax.random.key(0), jnp.asarray(x), modulation))["params"]
    np.testing.assert_allclose(start["compress_kernel"], np.full((2, 2, 8), 0.25))
    params |= {name: start[name] for name in ("compress_kernel", "compress_bias", "compress_norm")}

    def norm(h, eps):
        return (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + eps)

    h = norm(x, 1e-6) * (1 + rows[1]) + rows[0]
    q, k, v = np.moveaxis(np.einsum("bnd,dhte->bnhte", h, params["qkv_kernel"]) + params["qkv_bias"], 3, 0)
    squares = np.asarray([[0, 1, 2, 3], [4, 5, 6, 7]])  # rows of two columns: two squares below each other
    k, v = (norm(part.reshape(8, 8)[squares].mean(1), 1e-5).reshape(2, 2, 4) for part in (k, v))
    score = np.einsum("bnhe,mhe->bhnm", q, k) / 2.0
    share = np.exp(score) / np.exp(score).sum(-1, keepdims=True)
    want = np.einsum("bhnm,mhe,hed->bnd", share, v, params["out_kernel"]) + params["out_bias"]
    got = layer.apply({"params": jax.device_put(params)}, jnp.asarray(x), modulation)
    np.testing.assert_allclose(got, x + rows[2] * want, atol=2e-5)
    network = PixArt(depth=3, width=24, heads=4, compress=2, compressed=2, remat="none")
    shapes = unbox(jax.eval_shape(network.init, jax.random.key(0), (latent(8),)))["params"]
    assert shapes["blocks"]["table"].shape[0] == 1
    assert shapes["compressed_blocks"]["attention"]["compress_kernel"].shape == (2, 2, 2, 24)
    with pytest.raises(ValueError, match=r"squares of 2 of a grid that they divide.* 3 x 3"):
        shapes_of(network, (latent(6),))


def latent(side, channels=4, patch=2):
    x = jnp.zeros((1, side, side, channels))
    return NoisyInput(Form("image", x.shape[1:], (patch, patch), channels), x, jnp.zeros(1))


def zero(name, kind, *shape, rows=None):
    return condition(name, kind, np.zeros((1, *shape), np.int32 if kind == "label" else np.float32), rows)


def sized(name, **fields):
    depth, width, heads = SIZES[name]
    return UVit(depth=depth, width=width, heads=heads, **fields)


CLASSES = (zero("class", "label", rows=1001),)
OTHERS = (stream("clip", (1, 512), (1,), (0.0,)), stream("text", (77, 64), (1,), (0.0,)))
PUBLISHED = {
    "U-ViT-S/2, CIFAR-10": (sized("S", conv=True), (latent(32, 3),), (), 44.26),
    "U-ViT-S-deep/2, COCO": (sized("S-deep", conv=True), (latent(32),), (zero("caption", "tokens", 77, 768),), 58.35),
    "U-ViT-H/2, ImageNet": (sized("H"), (latent(32),), CLASSES, 500.83),
    "UniDiffuser-v1": (
        sized("UniDiffuser", norms="post", clocks=("image", "text")), (latent(64), *OTHERS),
        (zero("type", "label", rows=2),), 952.5,
    ),
    "PixArt-alpha XL/2": (
        PixArt(), (latent(32)._replace(form=Form("image", (32, 32, 4), (2, 2), 8)),),
        (zero("caption", "tokens", 120, 4096),), 610.856096,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_their_parameters(name):
    network, noisy, given, millions = PUBLISHED[name]
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), noisy, given))["params"]
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert abs(count / 1e6 - millions) < (0.05 if millions > 900 else 0.0051)


@pytest.mark.nightly
def test_a_joint_diffusion_moves_every_parameter():
    model = joint(UVit(depth=2, width=16, heads=2, norms="post", remat="none"))
    batch = batch_of(model, 4)

    def loss(params):
        terms, _, _ = model.losses(params, {}, batch, jax.random.key(0))
        return sum(jnp.sum(total) / jnp.sum(weight) for total, weight in terms.values())

    grads = jax.jit(jax.grad(loss))(weights(model))
    still = [
        jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(grads) if not np.abs(g).max()
    ]
    assert still == []


def shapes_of(network, noisy):
    return jax.eval_shape(network.init, jax.random.key(0), noisy)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: UVit(depth=3), "depth must be even"),
        (lambda: UVit(width=30, heads=4), "divisible by its 4 heads"),
        (lambda: UVit(grid=(3,)), "grid is empty or"),
        (
            lambda: shapes_of(UVit(clocks=("sound",)), picture()),
            "clocks names sound; the streams are image",
        ),
        (lambda: PixArt(width=18, heads=3), "and by 4"),
        (lambda: PixArt(stretch=0.0), "must be positive"),
        (lambda: shapes_of(PIXART, streams()[2:]), "a grid of 1 axes"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
