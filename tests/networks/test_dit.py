import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import call_of, stirred
from unified_jax.layers.embeddings import sincos_positions, sinusoid
from unified_jax.modalities.image import Image
from unified_jax.networks.dit import DiT, dit_preset
from unified_jax.sharding import logical_axes, unbox

IMAGE = Image(8, 12, 3, 2)
X, T = jax.random.normal(jax.random.key(0), (3, 8, 12, 3)), jnp.linspace(0, 999, 3)
FIRST, SECOND = jnp.asarray([1, 10, 0]), jnp.asarray([3, 0, 2])


def inputs(x=X, t=T, first=FIRST, second=SECOND):
    return call_of(IMAGE, x, t, ((11, first), (4, second)), outputs=6)


def small(**fields):
    return DiT(depth=3, width=32, heads=4, **fields)


@functools.cache
def random_parameters(network):
    """Parameters with nothing at zero, so that every part of the network matters."""
    return stirred(lambda key: unbox(network.init(key, *inputs())["params"]))


@functools.partial(jax.jit, static_argnums=(0, 3))
def called(network, params, given, capture):
    return network.apply({"params": params}, *given, capture=capture)


def outputs(network, params, given=None, capture=()):
    """(the image's, captured)."""
    found, captured = called(network, params, given or inputs(), capture)
    assert set(found) == {"image"}
    return found["image"], captured


@functools.cache
def gradient(network):
    """(loss, its gradient) at random parameters."""

    def loss(params):
        return jnp.sum(network.apply({"params": params}, *inputs())[0]["image"] ** 2)

    return jax.jit(jax.value_and_grad(loss))(random_parameters(small()))


@pytest.mark.parametrize(
    ("size", "millions"), [("S", 32.96), ("B", 130.51), ("L", 458.10), ("XL", 675.13)], ids=["S", "B", "L", "XL"]
)
def test_published_parameter_counts(size, millions):
    """At 256 px, patch 2, learned sigma; the published counts include the fixed position table."""
    network, image = dit_preset(size), Image(32, 32, 4, 2)
    given = call_of(image, jnp.zeros((1, 32, 32, 4)), jnp.zeros(1), ((1001, jnp.zeros(1)),), outputs=8)
    shapes = jax.eval_shape(lambda key: network.init(key, *given)["params"], jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(unbox(shapes))) + 256 * network.width
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


def test_at_the_start_the_blocks_are_the_identity_and_the_output_is_zero():
    network = small()
    params = jax.jit(lambda key: unbox(network.init(key, *inputs())["params"]))(jax.random.key(0))
    out, _ = outputs(network, params)
    np.testing.assert_array_equal(out, jnp.zeros_like(out))
    assert not np.any(params["blocks"]["modulation"]["linear"]["kernel"])


@pytest.mark.parametrize(
    "fields",
    [
        {"remat": "none"},
        {"remat": "dots"},
        {"remat": "offload"},
        {"unroll": 3},
        {"attention": "reference"},
    ],
    ids=str,
)
def test_how_it_is_computed_does_not_change_what(fields):
    for left, right in zip(*map(jax.tree.leaves, (gradient(small()), gradient(small(**fields)))), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("conditioning", ["adaln_zero", "adaln", "cross", "in_context"])
def test_every_conditioning_hears_time_and_labels(conditioning):
    """Each of the four moves with the time and with each label, keeps its shape, and captures its attention."""
    network = small(conditioning=conditioning)
    params = random_parameters(network)
    out, _ = outputs(network, params)
    assert out.shape == (3, 8, 12, 6)
    for other in (inputs(t=T + 50), inputs(first=FIRST.at[:].set(5)), inputs(second=SECOND.at[:].set(1))):
        moved, _ = outputs(network, params, other)
        assert np.abs(moved - out).max() > 1e-3
    same, captured = outputs(network, params, capture=("attention",))
    np.testing.assert_allclose(same, out, atol=1e-4)
    length = 24 + (3 if conditioning == "in_context" else 0)
    assert captured["attention"].shape == (3, 3, 4, length, length)


def test_conditioning_costs_what_the_paper_says():
    """Parameters of S/2 blocks: in-context < adaLN < cross and adaLN-Zero (section 3.2)."""

    def count(conditioning):
        network = DiT(depth=2, width=384, heads=6, conditioning=conditioning)
        shapes = jax.eval_shape(lambda key: network.init(key, *inputs())["params"], jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(unbox(shapes)["blocks"]))

    width = 384
    base = count("in_context")
    assert count("adaln") - base == 2 * (4 * width * (width + 1) - 4 * width)  # a linear of 4 d, less two affine norms
    assert count("adaln_zero") - base == 2 * (6 * width * (width + 1) - 4 * width)
    assert count("cross") - base == 2 * (4 * width * (width + 1) + 2 * width)  # q, k, v, out and its norm


def test_capturing_attention_changes_nothing_and_sums_to_one():
    params = random_parameters(small())
    plain, nothing = outputs(small(), params)
    out, captured = outputs(small(), params, capture=("attention",))
    np.testing.assert_allclose(out, plain, atol=1e-4)
    assert nothing == {}
    assert captured["attention"].shape == (3, 3, 4, 24, 24)
    np.testing.assert_allclose(captured["attention"].sum(-1), 1.0, atol=1e-5)


def test_tokens_after_a_block_are_captured_without_those_of_the_condition():
    network = small(conditioning="in_context")
    params = random_parameters(network)
    plain, _ = outputs(network, params)
    out, captured = outputs(network, params, capture=("block/0", "block/2"))
    np.testing.assert_allclose(out, plain, atol=1e-4)
    assert {name: value.shape for name, value in captured.items()} == dict.fromkeys(("block/0", "block/2"), (3, 24, 32))
    assert np.abs(captured["block/0"] - captured["block/2"]).max() > 1e-3


@pytest.mark.parametrize(
    ("conditioning", "options", "words"),
    [
        ("adaln_zero", {"capture": ("block/3",)}, "block/0' .. 'block/2'"),
        ("cross", {"layout": object()}, "DiT with conditioning 'cross' reads arrays of one size: layout must be None"),
    ],
)
def test_what_it_cannot_do_is_said(conditioning, options, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda: small(conditioning=conditioning).init(jax.random.key(0), *inputs(), **options))


def test_bfloat16_keeps_float32_parameters_and_output():
    network = small(dtype="bfloat16")
    params = random_parameters(network)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    rough, _ = outputs(network, params)
    exact, _ = outputs(small(), params)
    assert rough.dtype == jnp.float32
    assert float(jnp.abs(rough - exact).mean()) < 0.05 * float(jnp.abs(exact).mean())


def test_every_parameter_names_its_axes():
    boxed = jax.eval_shape(lambda key: small(qk_norm=True).init(key, *inputs())["params"], jax.random.key(0))
    axes = logical_axes(boxed)
    flat = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple))
    assert all(any(name for name in names) for names in flat)
    assert axes["blocks"]["attention"]["qkv_kernel"] == ("layers", "embed", "heads", None, "head_dim")


def test_sinusoid_is_cos_then_sin():
    features = sinusoid(jnp.asarray([3.0]), 256)[0]
    np.testing.assert_allclose(features[0], np.cos(3.0), rtol=1e-6)
    np.testing.assert_allclose(features[128], np.sin(3.0), rtol=1e-6)
    np.testing.assert_allclose(features[64], np.cos(3.0 / 100), rtol=1e-6)


def test_positions_of_any_grid_put_the_column_first():
    table = sincos_positions(jnp.asarray(Image(8, 12, 3, 2).positions()), 32)
    assert table.shape == (24, 32)
    np.testing.assert_allclose(table[1, :16], sincos_positions(jnp.asarray([[1]]), 16)[0], atol=1e-6)
    np.testing.assert_allclose(table[6, 16:], sincos_positions(jnp.asarray([[1]]), 16)[0], atol=1e-6)
    with pytest.raises(ValueError, match="divisible by 4"):
        sincos_positions(jnp.zeros((3, 2), jnp.int32), 30)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"width": 32, "heads": 5}, "heads"), ({"depth": 0}, "depth"), ({"unroll": 0}, "unroll")],
)
def test_bad_fields_are_sentences(fields, words):
    with pytest.raises(ValueError, match=words):
        DiT(**fields)
