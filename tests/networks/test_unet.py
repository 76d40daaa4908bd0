"""U-Nets: released sizes, what they are told, meshes, and training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import EXPERIMENT, MODEL, first_steps
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.networks.unet.adm import RELEASED, adm_unet
from unified_jax.networks.unet.conditional import conditional, stable_diffusion
from unified_jax.networks.unet.levels import Level
from unified_jax.networks.unet.network import UNet
from unified_jax.sharding import MeshShape, Rules, logical_axes, make_mesh, parameter_shardings, unbox

SIDES, CHANNELS = (6, 5), 3
DOWN = (Level(8, 1, "tokens", 2, change="residual"), Level(8, 1, "both", 2))
NETWORK = UNet(down=DOWN, middle=Level(8, 1), groups=4, scale_shift=True, scalar_features=8, remat="none")


def shown(name, kind, value, rows=None, **more):
    length = max(1, value.shape[1]) if kind == "tokens" else 1
    return ConditionInput(
        ConditionForm(name, kind, rows or value.shape[-1], length, more.pop("null", "row" if rows else "none")),
        value,
        **more,
    )


def noisy(sides=SIDES, batch=8, outputs=CHANNELS, channels=CHANNELS):
    x = jax.random.normal(jax.random.key(1), (batch, *sides, channels))
    return (NoisyInput(Form("image", x.shape[1:], (1, 1), outputs), x, jnp.linspace(3.0, 900.0, batch)),)


def told(batch=8):
    def draw(*s):
        return jnp.asarray(np.random.default_rng(sum(s)).normal(size=(batch, *s)), jnp.float32)

    return {
        "class": shown("class", "label", jnp.arange(batch) % 5, 6),
        "pooled": shown("pooled", "vector", draw(7)),
        "sizes": shown("sizes", "scalars", 10 * draw(3)),
        "text": shown("text", "tokens", draw(4, 10), length=jnp.arange(batch) % 3 + 2),
        "hint": shown("hint", "map", draw(3, 5, 2)),
    }


@functools.cache
def boxed(network=NETWORK):
    given = tuple(told().values())
    return jax.eval_shape(lambda key: network.init(key, noisy(), given)["params"], jax.random.key(0))


@functools.cache
def parameters(network=NETWORK):
    """Parameters with nothing at zero, so that every part matters; drawn here, as an init would be compiled."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), unbox(boxed(network)))


@functools.partial(jax.jit, static_argnums=0)
def called(network, params, given, conditions):
    """(the image's output, what was captured): one program for all tests of a network."""
    outputs, captured = network.apply({"params": params}, given, conditions, capture=("down/0", "up/0"))
    return outputs["image"], captured


def shapes_of(network, side, channels, outputs, conditions=()):
    form, struct = (
        Form("image", (side, side, channels), (1, 1), outputs),
        functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32),
    )

    def init(x, t, conditions):
        return unbox(network.init(jax.random.key(0), (NoisyInput(form, x, t),), conditions)["params"])

    return jax.eval_shape(init, struct((1, *form.shape)), struct((1,)), conditions)


def size(shapes):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def zeros(*s):
    return jnp.zeros((1, *s))


@pytest.mark.parametrize(
    ("version", "features", "parameters"),
    [
        pytest.param("1", 768, 859_520_964, marks=pytest.mark.nightly),
        pytest.param("2", 1024, 865_910_724, marks=pytest.mark.nightly),
        ("xl", 2048, 2_567_463_684),
    ],
)
def test_stable_diffusion_has_its_released_sizes(version, features, parameters):
    given = [shown("text", "tokens", zeros(2, features))]
    given += [shown("pooled", "vector", zeros(1280)), shown("sizes", "scalars", zeros(6))] if version == "xl" else []
    assert size(shapes_of(stable_diffusion(version), 16, 4, 4, tuple(given))) == parameters


@pytest.mark.parametrize(
    ("side", "parameters"),
    [
        (64, 295_904_454),
        (128, 421_529_606),
        (256, 553_838_086),
        (512, 558_997_638),
    ],
)
@pytest.mark.nightly
def test_adm_has_its_released_sizes(side, parameters):
    given = (shown("class", "label", jnp.zeros(1, jnp.int32), 1000),)
    assert size(shapes_of(adm_unet(RELEASED[side], scale_shift=True), 64, 3, 6, given)) == parameters


@pytest.mark.nightly
def test_it_begins_at_zero():
    network = UNet(down=(Level(8, 1, "itself"),), middle=None, groups=4, remat="none")
    params = jax.jit(lambda: unbox(network.init(jax.random.key(0), noisy())["params"]))()
    assert not np.any(called(network, params, noisy(), ())[0])
    assert not np.any(params["down_0"]["residual_0"]["conv2"]["kernel"])
    assert not np.any(params["down_0"]["attention_0"]["out_kernel"])


def test_it_reads_every_condition_and_only_the_tokens_that_are_there():
    params, given = parameters(), told()
    out, captured = called(NETWORK, params, noisy(), tuple(given.values()))
    assert {name: value.shape for name, value in captured.items()} == {
        "down/0": (8, 6, 5, 8), "up/0": (8, 3, 2, 8),
    }  # fmt: skip
    for name, one in given.items():
        changed = given | {name: one._replace(value=one.value[::-1])}
        moved, _ = called(NETWORK, params, noisy(), tuple(changed.values()))
        assert np.abs(moved - out).max() > 1e-3, name
    padded = given["text"].value.at[0, 2:].set(7.0)  # the first text has two tokens
    same, _ = called(NETWORK, params, noisy(), tuple((given | {"text": given["text"]._replace(value=padded)}).values()))
    np.testing.assert_allclose(same, out, atol=1e-6)
    later = noisy()[0]
    later = later._replace(t=later.t.at[1].add(1.0))
    moved, _ = called(NETWORK, params, (later,), tuple(given.values()))
    np.testing.assert_allclose(moved[0], out[0], atol=1e-6)
    assert np.abs(moved[1] - out[1]).max() > 1e-4


@pytest.mark.nightly
def test_a_mesh_of_eight_computes_the_same():
    mesh, rules = make_mesh(MeshShape(data=2, fsdp=2, tensor=2)), Rules()
    given = tuple(told().values())
    params = parameters()
    axes = logical_axes(boxed())
    named = jax.tree.leaves(axes, is_leaf=lambda a: isinstance(a, tuple))
    assert all(any(names) for names in named if len(names) > 1)
    alone, _ = called(NETWORK, params, noisy(), given)
    with rules.active(mesh):
        sharded = jax.device_put(params, parameter_shardings(mesh, rules, axes, params))
        together = jax.jit(lambda *inputs: NETWORK.apply(*inputs)[0]["image"])({"params": sharded}, noisy(), given)
    assert len({str(leaf.sharding) for leaf in jax.tree.leaves(sharded)}) > 3
    np.testing.assert_allclose(together, alone, atol=1e-5 * float(np.abs(alone).max()))


@pytest.mark.nightly
def test_bfloat16_is_near_and_its_parameters_stay_float32():
    given = tuple(told().values())
    exact, _ = called(NETWORK, parameters(), noisy(), given)
    rough, _ = called(dataclasses.replace(NETWORK, dtype="bfloat16"), parameters(), noisy(), given)
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(rough - exact).mean() < 0.05 * np.abs(exact).mean()


@pytest.mark.nightly
def test_it_trains_inside_a_diffusion():
    network = UNet(down=(Level(8, 1),), middle=None, groups=4, remat="none")
    model = dataclasses.replace(MODEL, network=network, drop_some=0.0, flip=False)
    losses, _ = first_steps(dataclasses.replace(EXPERIMENT, model=model), 1, steps=30)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:4])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Level(10, heads=4, reads="itself"), "not divisible by its 4 heads"),
        (lambda: UNet(up=(Level(64),)), "must be as many"),
        (lambda: UNet(down=DOWN, up=DOWN[::-1]), "the 4 maps kept on the way down"),
        (lambda: UNet(input_size=2), "must be odd"),
        (lambda: Level(8, 2, "tokens", depth=(1, 2)).mirrored("conv"), "cannot be mirrored"),
        (lambda: conditional({"down_block_types": ["KDownBlock2D"] * 4}), "'KDownBlock2D' is not served"),
        (lambda: conditional({"attention_type": "gated"}), "attention_type = 'gated' is not served"),
    ],
)
def test_what_does_not_fit_is_said(make, words):
    with pytest.raises(ValueError, match=words) if "served" not in words else pytest.raises(Exception, match=words):
        make()


@pytest.mark.parametrize(
    ("conditions", "options", "words"),
    [
        ((shown("text", "tokens", jnp.zeros((2, 0, 9))),), {}, "at least one token long"),
        ((), {"capture": ("block/1",)}, "'block/1' is unknown; expected one of down/0"),
        ((), {"layout": object()}, "layout must be None"),
    ],
)
def test_what_it_cannot_read_is_said(conditions, options, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda: NETWORK.init(jax.random.key(0), noisy(), conditions, **options))
