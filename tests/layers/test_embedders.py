"""Embedders: as many tokens as patches, outputs of the input's sizes, and what each promises."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.layers.conv import convolve
from unified_jax.layers.embedders import make_embedder
from unified_jax.layers.form import Form
from unified_jax.layers.pointnet import farthest_points, nearest
from unified_jax.layers.unet import stages_of

WIDTH = 24
CLOUD, PICTURE, FILM, PATH = ((20, 6), (8,)), ((7, 10, 3), (4, 4)), ((3, 9, 8, 1), (2, 6, 4)), ((5, 2), (3,))


class Around(nn.Module):
    """An embedder with no trunk between its halves."""

    form: Form
    skip: bool = True

    @nn.compact
    def __call__(self, x, c):
        embedder = make_embedder(self.form)
        tokens, skips = embedder.encode(x, c, WIDTH, jnp.dtype("float32"))
        assert tokens.shape == (len(x), self.form.tokens, WIDTH)
        return tokens, embedder.decode(tokens, skips, c)


@functools.cache
def build(kind, shape, cut):
    """(the compiled call, random parameters, x, c)."""
    module, noise, x, c = given(kind, shape, cut)
    shapes = nn.meta.unbox(jax.eval_shape(module.init, jax.random.key(2), x, c))
    moved = jax.tree.map(lambda p: jnp.asarray(noise.normal(0, 0.3, p.shape), jnp.float32), shapes)
    return jax.jit(module.apply), moved, x, c


def given(kind, shape, cut):
    noise = np.random.default_rng(0)
    x, c = (jnp.asarray(noise.normal(size=(3, *size)), jnp.float32) for size in (shape, (WIDTH,)))
    return Around(Form("m", shape, cut, shape[-1] + 1, kind, 8)), noise, x, c


@pytest.mark.parametrize(
    ("kind", "shape_and_cut"),
    [
        *itertools.product(("linear", "convolutional", "unet"), (PICTURE, FILM, PATH)),
        *itertools.product(("pointnet", "groups"), (CLOUD, FILM)),
    ],
)
def test_sizes_and_start(kind, shape_and_cut):
    """Odd sizes too; the output starts at zero, every parameter is trained, and one example says nothing of another."""
    if kind in ("pointnet", "groups") and shape_and_cut is not CLOUD:
        with pytest.raises(ValueError, match=r"needs points .* use linear, convolutional or unet"):
            make_embedder(Form("m", *shape_and_cut, 1, kind))
        return
    module, noise, x, c = given(kind, *shape_and_cut)
    (_, y), fresh = jax.jit(module.init_with_output)(jax.random.key(2), x, c)
    assert y.shape == (*x.shape[:-1], x.shape[-1] + 1)
    np.testing.assert_array_equal(y, 0.0)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def run(p, x):
        tokens, y = module.apply(p, x, c)
        return jnp.sum(jnp.square(y - 1)), (tokens, y)

    fresh = jax.device_get(nn.meta.unbox(fresh))
    moved = jax.tree.map(lambda p: p + noise.normal(0, 0.1, p.shape).astype(np.float32), fresh)
    gradient, (tokens, y) = run(moved, x)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    _, (tokens_after, y_after) = run(moved, x.at[1].set(0.0))
    for before, after in ((tokens, tokens_after), (y, y_after)):
        np.testing.assert_allclose(before[::2], after[::2], atol=1e-6)
        assert np.abs(before[1] - after[1]).max() > 1e-3


def test_linear_patches_are_strangers_and_convolved_ones_are_neighbours():
    """A pixel beside a patch's edge changes the neighbouring token of a convolutional embedder, not of a linear one."""
    for kind, changed in (("linear", False), ("convolutional", True), ("unet", True)):
        apply, moved, x, c = build(kind, *PICTURE)
        tokens, _ = apply(moved, x, c)
        after, _ = apply(moved, x.at[:, 0, 4].add(1.0), c)
        assert np.abs(after[:, 1] - tokens[:, 1]).max() > 1e-3
        assert (np.abs(after[:, 0] - tokens[:, 0]).max() > 1e-6) == changed


def test_only_the_unet_hears_the_time():
    for kind, heard in (("linear", False), ("convolutional", False), ("unet", True)):
        apply, moved, x, c = build(kind, *PICTURE)
        assert (np.abs(apply(moved, x, c)[0] - apply(moved, x, c + 1)[0]).max() > 1e-4) == heard


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (1, 2, 2), (2, 1, 1)])
def test_three_axes_are_sums_over_two(stride):
    x, size = jax.random.normal(jax.random.key(0), (2, 4, 6, 8, 3)), tuple(3 if s == 1 else s for s in stride)
    kernel = jax.random.normal(jax.random.key(1), (*size, 3, 5))
    pads = [(1, 1) if s == 1 else (0, 0) for s in stride]
    whole = jax.lax.conv_general_dilated(x, kernel, stride, pads, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))
    np.testing.assert_allclose(convolve(x, kernel, stride), whole, atol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "convolutional", "unet", "pointnet", "groups"])
def test_every_parameter_says_how_it_is_cut(kind):
    shape, cut = CLOUD
    module = Around(Form("m", shape, cut, 1, kind, 8))
    boxed = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros((1, WIDTH)))
    specs = nn.get_partition_spec(boxed)["params"]
    for spec, leaf in zip(jax.tree.leaves(specs), jax.tree.leaves(nn.meta.unbox(boxed)["params"]), strict=True):
        assert len(spec) == leaf.ndim
        named = [axis for axis in spec if axis]
        assert len(set(named)) == len(named)


def test_stages_multiply_up_to_the_cut():
    assert stages_of((2, 8, 8)) == ([(2, 2, 2), (1, 2, 2), (1, 2, 2)], (1, 1, 1))
    assert stages_of((3, 6)) == ([(1, 2)], (3, 3))
    assert stages_of((5,)) == ([], (5,))


def test_points_of_a_token_have_no_order_and_groups_no_order_at_all():
    rng = np.random.default_rng(0)
    apply, moved, x, c = build("pointnet", (32, 6), (8,))
    within = np.concatenate([8 * i + rng.permutation(8) for i in range(4)])
    tokens, y = apply(moved, x, c)
    mixed, mixed_y = apply(moved, x[:, within], c)
    np.testing.assert_allclose(mixed, tokens, atol=1e-5)
    np.testing.assert_allclose(mixed_y, y[:, within], atol=1e-5)
    apply, moved, x, c = build("groups", (32, 6), (8,))
    every = np.concatenate([[0], 1 + rng.permutation(31)])
    tokens, y = apply(moved, x, c)
    mixed, mixed_y = apply(moved, x[:, every], c)
    np.testing.assert_allclose(mixed, tokens, atol=1e-5)
    np.testing.assert_allclose(mixed_y, y[:, every], atol=1e-5)


def test_farthest_points_and_neighbours_by_hand():
    rng = np.random.default_rng(1)
    cloud = rng.random((2, 40, 3)).astype(np.float32)
    found = np.asarray(farthest_points(jnp.asarray(cloud), 6))
    near, squared = nearest(jnp.asarray(cloud[:, :5]), jnp.asarray(cloud), 4)
    for i in range(2):
        chosen = [0]
        while len(chosen) < 6:
            gaps = np.linalg.norm(cloud[i][:, None] - cloud[i][chosen][None], axis=-1).min(1)
            chosen.append(int(gaps.argmax()))
        assert found[i].tolist() == chosen
        distances = np.linalg.norm(cloud[i, :5, None] - cloud[i][None], axis=-1)
        assert np.asarray(near)[i].tolist() == np.argsort(distances, axis=1)[:, :4].tolist()
        np.testing.assert_allclose(np.sqrt(np.asarray(squared)[i]), np.sort(distances, axis=1)[:, :4], atol=1e-4)
