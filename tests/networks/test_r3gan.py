"""R3GAN's networks: resampling by its definition, initial weights, groups, layouts of weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.errors import UserError
from unified_jax.interop import r3gan as interop
from unified_jax.layers.conv import convolve
from unified_jax.networks.r3gan import Block, R3ganDiscriminator, R3ganGenerator, double, grouped, halve, lowpass
from unified_jax.sharding import MeshShape, Rules, logical_axes, make_mesh, parameter_shardings, unbox

SIZES = {"widths": (8, 8, 4), "groups": (4, 4, 2), "blocks": (1, 2, 1)}
MAKER = R3ganGenerator(**SIZES, latent=5, classes=3, embedding=2, channels=2)
JUDGE = R3ganDiscriminator(*(v[::-1] for v in SIZES.values()), classes=3, embedding=2, channels=2)
GIVEN = {MAKER: jnp.zeros((1, 5)), JUDGE: jnp.zeros((1, 16, 16, 2))}


def boxed(network):
    return jax.eval_shape(network.init, jax.random.key(0), GIVEN[network], jnp.zeros((1, 3)))["params"]


@functools.cache
def parameters(network):
    """Nothing is at zero, so that every part of the network matters."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda s: jax.device_put((0.3 * rng.normal(size=s.shape)).astype(np.float32)), unbox(boxed(network))
    )


@pytest.mark.parametrize("taps", [(1.0, 2.0, 1.0), (1.0, 3.0, 5.0, 2.0, 1.0)])
def test_resampling_is_a_filter_around_every_second_place_and_its_transpose(taps):
    kernel, radius, n = lowpass(taps), len(taps) // 2, 6
    assert np.allclose(lowpass((1.0, 2.0, 1.0)), np.asarray([1, 3, 3, 1]) / 8)
    down = np.zeros((n // 2, n))
    for i in range(n // 2):
        for k, weight in enumerate(kernel):
            if 0 <= 2 * i + k - radius < n:
                down[i, 2 * i + k - radius] = weight
    x = jax.random.normal(jax.random.key(0), (2, n, n, 3))
    np.testing.assert_allclose(halve(x, taps), np.einsum("ph,qw,bhwc->bpqc", down, down, x), atol=1e-6)
    small = x[:, : n // 2, : n // 2]
    np.testing.assert_allclose(double(small, taps), 4 * np.einsum("ph,qw,bpqc->bhwc", down, down, small), atol=1e-5)


def test_groups_of_channels_are_convolved_apart_as_the_compiler_does_it():
    x, kernel = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(2, 4, 6, 12), (3, 5, 4, 6)]))
    expected = convolve(x, kernel, (1, 1), ((1, 1), (2, 2)), 3)
    np.testing.assert_allclose(grouped(x, kernel, 3), expected, atol=1e-5)


def test_a_block_starts_as_the_identity_with_the_deviations_of_the_paper():
    block, x = Block(8, 2, 3, 5), jax.random.normal(jax.random.key(1), (1, 3, 3, 64))
    params = unbox(jax.jit(block.init)(jax.random.key(0), x))["params"]
    for value, fan in ((params["in"]["kernel"], 64), (params["mix_kernel"], 9 * 16)):
        assert float(value.std()) == pytest.approx((2 / 1.04) ** 0.5 * 5**-0.25 / fan**0.5, rel=0.05)
    assert not params["out"]["kernel"].any()
    np.testing.assert_array_equal(jax.jit(block.apply)({"params": params}, x), x)


@pytest.mark.nightly
def test_a_fresh_generator_doubles_its_scaled_basis():
    wide = R3ganGenerator((64, 64), (8, 8), (2, 3), latent=6)
    params = unbox(jax.jit(wide.init)(jax.random.key(0), jnp.zeros((1, 6))))["params"]
    z = jax.random.normal(jax.random.key(1), (2, 6))
    grid = jnp.moveaxis(params["basis"], 0, -1) * (z @ params["start"]["kernel"])[:, None, None]
    expected = double(grid, (1.0, 2.0, 1.0)) @ params["picture"]["kernel"][0, 0]
    np.testing.assert_allclose(jax.jit(wide.apply)({"params": params}, z), expected, atol=1e-4)


@pytest.mark.parametrize("network", [MAKER, JUDGE], ids=["generator", "discriminator"])
def test_weights_go_out_and_in_unchanged_and_a_lost_renamed_or_reshaped_one_is_named(network):
    params, expected, taps = parameters(network), unbox(boxed(network)), network.taps
    theirs = interop.write(params, taps)
    assert sum(interop.FILTER in name for name in theirs) == 2
    for some in (theirs, {interop.PREFIX + name: value for name, value in theirs.items()}):
        back = interop.read("it", some, expected, taps)
        jax.tree.map(np.testing.assert_array_equal, back, params)
    name = "MainLayers.1.Layers.1.LinearLayer2.Layer.weight"
    kept = {n: v for n, v in theirs.items() if n != name}
    for wrong in (kept, kept | {name + "s": theirs[name]}, kept | {name: theirs[name][:1]}):
        with pytest.raises(UserError, match=name):
            interop.read("it", wrong, expected, taps)
    resampler = next(n for n in theirs if interop.FILTER in n)
    with pytest.raises(UserError, match="another filter"):
        interop.read("it", theirs, expected, (1.0, 1.0, 1.0))
    with pytest.raises(UserError, match=f"missing {resampler}"):
        interop.read("it", {n: v for n, v in theirs.items() if n != resampler}, expected, taps)


@pytest.mark.nightly
@pytest.mark.parametrize("network", [MAKER, JUDGE], ids=["make", "judge"])
def test_a_mesh_computes_the_same_and_bfloat16_is_near(network):
    x = jax.random.normal(jax.random.key(2), (4, *GIVEN[network].shape[1:]))
    params, c = parameters(network), jax.nn.one_hot(jnp.arange(4) % 3, 3)
    alone = jax.jit(network.apply)({"params": params}, x, c)
    mesh, rules = make_mesh(MeshShape(data=2, fsdp=2, tensor=2)), Rules()
    cut = jax.device_put(params, parameter_shardings(mesh, rules, logical_axes(boxed(network)), params))
    with rules.active(mesh):
        together = jax.jit(lambda p, x, c: network.apply({"params": p}, x, c))(cut, x, c)
    largest = float(np.abs(alone).max())
    np.testing.assert_allclose(together, alone, atol=1e-5 * largest)
    rough = jax.jit(network.clone(dtype="bfloat16").apply)({"params": params}, x, c)
    assert rough.dtype == jnp.float32
    assert 1e-5 < float(np.abs(rough - alone).max()) / largest < 0.1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"blocks": (1,)}, "widths, groups and blocks each"),
        ({"groups": (3, 4, 2)}, "3 groups do not divide the 16 channels"),
        ({"taps": (1.0, 1.0)}, "are odd"),
        ({"classes": 3}, "go together"),
    ],
)
def test_sizes_that_do_not_fit_are_a_sentence(fields, words):
    with pytest.raises(ValueError, match=words):
        R3ganGenerator(**SIZES | fields)
