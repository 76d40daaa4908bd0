"""A ControlNet changes nothing at the start, its zero convolutions learn first, and its map must fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.errors import UserError
from unified_jax.interop import controlnet as lines
from unified_jax.interop.names import flatten, unflatten
from unified_jax.interop.unets import Layout
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.networks.unet.controlnet import Controlled, control_of, controlnet
from unified_jax.networks.unet.levels import Level
from unified_jax.networks.unet.network import UNet
from unified_jax.sharding import unbox

BASE = UNet((Level(4, 1),), Level(4, 1), groups=2)
NETWORK = Controlled(BASE, control_of(BASE, (2, 4)))
DRAW = np.random.default_rng(0)


def drawn(*shape):
    return jnp.asarray(DRAW.standard_normal(shape), jnp.float32)


def hint(side, channels=3):
    return ConditionInput(ConditionForm("hint", "map", channels, null="none"), drawn(2, side, side, channels))


NOISY = (NoisyInput(Form("image", (4, 4, 3), (1, 1), 3), drawn(2, 4, 4, 3), jnp.asarray([0.1, 0.7])),)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: unbox(NETWORK.init(key, NOISY, (hint(8),))["params"]))(jax.random.key(0))


def test_it_changes_nothing_at_the_start_and_its_zero_convolutions_learn_first(params):
    stirred = jax.tree.map(lambda p: p + 0.1 * drawn(*p.shape), params["base"])
    alone, fresh = flatten(stirred), flatten(params["control"])
    control = {name: alone.get(NETWORK.begins_as(f"control/{name}"), value) for name, value in fresh.items()}
    started = {"base": stirred, "control": unflatten(control)}
    shown = hint(8)

    def out(p):
        return NETWORK.apply({"params": p}, NOISY, (shown,))[0]["image"]

    plain = BASE.apply({"params": stirred}, NOISY)[0]["image"]
    found, slopes = jax.jit(jax.value_and_grad(lambda p: (out(p) ** 2).sum()))(started)
    np.testing.assert_allclose(found, (plain**2).sum(), rtol=1e-6)
    assert float(jnp.abs(plain).max()) > 0.01
    moving = {name.split("/")[1] for name, g in flatten(slopes).items() if g.any() and name.startswith("control/")}
    assert moving == {"zero_0", "zero_1", "zero_middle"}


def test_a_hint_that_does_not_fit_is_refused(params):
    for shown, words in (((hint(4),), "is halved 1 times"), ((), "a map called 'hint'")):
        with pytest.raises(UserError, match=words):
            jax.eval_shape(lambda s=shown: NETWORK.apply({"params": params}, NOISY, s))


def test_published_weights_go_out_and_in_bit_for_bit(params):
    written = lines.write(params["control"], Layout())
    assert {"controlnet_cond_embedding.blocks.1.weight", "controlnet_down_blocks.1.bias"} <= set(written)
    again = flatten(lines.read("it", written, params["control"], Layout()))
    assert all(np.array_equal(value, again[name]) for name, value in flatten(params["control"]).items())
    with pytest.raises(UserError, match="controlnet_mid_block"):
        lines.read("it", {k: v for k, v in written.items() if "mid_block" not in k}, params["control"], Layout())


def test_options_that_are_not_served_are_named():
    with pytest.raises(UserError, match="global_pool_conditions"):
        controlnet({"global_pool_conditions": True})


@pytest.mark.nightly
def test_guessing_grows_over_the_maps(params):
    control = dataclasses.replace(NETWORK.control, guess=True)
    one = jax.tree.map(lambda p: jnp.ones_like(p), params["control"])
    shown = (hint(8),)
    plain, guessed = (jax.jit(lambda n=n: n.apply({"params": one}, NOISY, shown))() for n in (NETWORK.control, control))
    ratios = [float((b / a).mean()) for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(guessed), strict=True)]
    np.testing.assert_allclose(ratios, np.logspace(-1, 0, 3), rtol=1e-4)
