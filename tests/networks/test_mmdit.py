"""MMDiT and Flux: released sizes, the DiT inside, texts, skipped blocks, meshes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import EXPERIMENT, MODEL, call_of, first_steps
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.image import Image
from unified_jax.networks.dit import DiT
from unified_jax.networks.flux import Flux
from unified_jax.networks.mmdit import RELEASED, MMDiT
from unified_jax.sharding import MeshShape, Rules, logical_axes, make_mesh, parameter_shardings, unbox

JOINT = MMDiT(depth=3, width=16, heads=2, qk_norm=True, dual=(0,), grid=8, base=4, remat="none")
FLUX = Flux(depth=1, single_depth=2, width=16, heads=2, axes=(2, 2, 4), remat="none")
IMAGE = Image(6, 4, 3, 2)


def noisy(batch=8):
    x = jax.random.normal(jax.random.key(1), (batch, *IMAGE.shape))
    return call_of(IMAGE, x, jnp.linspace(3.0, 900.0, batch), outputs=4)[0]


def condition(name, kind, value, **more):
    length = value.shape[1] if kind == "tokens" else 1
    return ConditionInput(ConditionForm(name, kind, value.shape[-1], length, null="none"), value, **more)


def told(batch=8):
    def draw(*s):
        return jnp.asarray(np.random.default_rng(sum(s)).normal(size=(batch, *s)), jnp.float32)

    lengths = jnp.arange(batch) % 3 + 2
    return {
        "class": ConditionInput(ConditionForm("class", "label", 6), jnp.arange(batch) % 5),
        "pooled": condition("pooled", "vector", draw(6)),
        "guidance": condition("guidance", "scalars", 1 + draw(1) ** 2),
        "short": condition("short", "tokens", draw(4, 10), length=lengths),
        "long": condition("long", "tokens", draw(5, 10)),
    }


def boxed(network, conditions):
    return jax.eval_shape(lambda key: network.init(key, noisy(), conditions)["params"], jax.random.key(0))


@functools.cache
def parameters(network):
    rng = np.random.default_rng(0)
    shapes = unbox(boxed(network, tuple(told().values())))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), jnp.float32), shapes)


@functools.partial(jax.jit, static_argnums=(0, 4))
def called(network, params, given, conditions, capture=("block/0", "block/2")):
    outputs, captured = network.apply({"params": params}, given, conditions, capture=capture)
    return outputs["image"], captured


def size(network, channels, text, pooled, scalars=()):
    def init(x, t, tokens, vector):
        given = (condition("text", "tokens", tokens), condition("pooled", "vector", vector), *scalars)
        return network.init(jax.random.key(0), (NoisyInput(form, x, t),), given)["params"]

    form = Form("image", (8, 8, channels), (2, 2), channels)
    structs = [jax.ShapeDtypeStruct((1, *s), jnp.float32) for s in (form.shape, (), (2, text), (pooled,))]
    return sum(leaf.size for leaf in jax.tree.leaves(unbox(jax.eval_shape(init, *structs))))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        pytest.param("sd3-medium", 2_028_328_000, marks=pytest.mark.nightly),
        ("sd3.5-medium", 2_243_171_520),
        pytest.param("sd3.5-large", 8_056_627_520, marks=pytest.mark.nightly),
    ],
)
def test_stable_diffusion_3_has_its_released_sizes(name, parameters):
    assert size(RELEASED[name], 16, 4096, 2048) == parameters


def test_flux_has_its_released_size():
    guidance = condition("guidance", "scalars", jnp.zeros((1, 1)))
    assert size(Flux(), 16, 4096, 768, (guidance,)) == 11_901_408_320


def dit_of(params, depth):
    """The DiT with these weights of an MMDiT that reads no text, whose last rows are scale, shift."""
    names = {"attention_image": "attention", "mlp_image": "mlp", "modulation_image": "modulation"}
    stacks = [params[name] for name in sorted(n for n in params if n.startswith("blocks"))]
    blocks = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *stacks)
    assert jax.tree.leaves(blocks)[0].shape[0] == depth
    final = jax.tree.map(lambda leaf: jnp.roll(leaf, leaf.shape[-1] // 2, axis=-1), params["final_modulation"])
    same = {name: params[name] for name in ("patch", "final")}
    blocks = {names[name]: value for name, value in blocks.items()}
    return same | params["summary"] | {"blocks": blocks, "final_modulation": final}


@pytest.mark.nightly
def test_without_a_text_it_is_a_dit():
    side = Image(8, 8, 3, 2)
    x = jax.random.normal(jax.random.key(2), (2, *side.shape))
    given = call_of(side, x, jnp.asarray([5.0, 700.0]), ((7, [2, 6]),), outputs=4)
    network = dataclasses.replace(JOINT, dual=(), grid=4, base=4)
    shapes = jax.eval_shape(lambda key: unbox(network.init(key, *given)["params"]), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), jnp.float32), shapes)
    dit = DiT(depth=3, width=16, heads=2, qk_norm=True, remat="none")
    ours, _ = jax.jit(network.apply)({"params": params}, *given)
    theirs, _ = jax.jit(dit.apply)({"params": dit_of(params, 3)}, *given)
    np.testing.assert_allclose(ours["image"], theirs["image"], atol=2e-5 * float(np.abs(theirs["image"]).max()))


BOTH = pytest.mark.parametrize("network", [JOINT, FLUX], ids=["mmdit", "flux"])


@BOTH
def test_it_reads_every_condition_but_no_padding(network):
    given, params = told(), parameters(network)
    out, captured = called(network, params, noisy(), tuple(given.values()))
    assert out.shape == (8, 6, 4, 4)
    assert {name: value.shape for name, value in captured.items()} == dict.fromkeys(("block/0", "block/2"), (8, 6, 16))
    assert np.abs(captured["block/0"] - captured["block/2"]).max() > 1e-2
    for name, one in given.items():
        moved, _ = called(
            network, params, noisy(), tuple((given | {name: one._replace(value=one.value[::-1])}).values())
        )
        assert np.abs(moved - out).max() > 1e-3, name
    padded = given["short"]._replace(value=given["short"].value.at[0, 2:].set(7.0))  # the first has two tokens
    same, _ = called(network, params, noisy(), tuple((given | {"short": padded}).values()))
    np.testing.assert_allclose(same, out, atol=1e-5 * float(np.abs(out).max()))


@pytest.mark.nightly
@BOTH
def test_a_mesh_of_eight_computes_the_same(network):
    given, params = told(), parameters(network)
    out, _ = called(network, params, noisy(), tuple(given.values()))
    mesh, rules = make_mesh(MeshShape(data=2, fsdp=2, tensor=2)), Rules()
    axes = logical_axes(boxed(network, tuple(given.values())))
    named = jax.tree.leaves(axes, is_leaf=lambda a: isinstance(a, tuple))
    assert all(any(names) for names in named if len(names) > 1)
    with rules.active(mesh):
        cut = jax.device_put(params, parameter_shardings(mesh, rules, axes, params))
        together = jax.jit(lambda *inputs: network.apply(*inputs)[0]["image"])(
            {"params": cut}, noisy(), tuple(given.values())
        )
    np.testing.assert_allclose(together, out, atol=1e-5 * float(np.abs(out).max()))


@pytest.mark.nightly
def test_a_skipped_block_changes_neither_stream():
    given, params = tuple(told().values()), parameters(JOINT)
    out, captured = called(dataclasses.replace(JOINT, skip=(1,)), params, noisy(), given)
    whole, _ = called(JOINT, params, noisy(), given)
    assert np.abs(whole - out).max() > 1e-3
    shorter = dataclasses.replace(JOINT, depth=2)
    left = {name: value for name, value in params.items() if name != "blocks_1"}
    left["blocks_1"] = left.pop("blocks_2")
    fewer, _ = called(shorter, left, noisy(), given, ("block/0",))
    np.testing.assert_allclose(out, fewer, atol=1e-6 * float(np.abs(out).max()))
    assert captured


@pytest.mark.nightly
@BOTH
def test_bfloat16_is_near(network):
    given, params = tuple(told().values()), parameters(network)
    exact, _ = called(network, params, noisy(), given)
    rough, _ = called(dataclasses.replace(network, dtype="bfloat16"), params, noisy(), given)
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(rough - exact).mean() < 0.05 * np.abs(exact).mean()


@pytest.mark.nightly
def test_it_trains_inside_a_diffusion():
    network = MMDiT(depth=2, width=32, heads=2, grid=8, base=2)
    model = dataclasses.replace(MODEL, network=network, drop_some=0.0, flip=False)
    losses, _ = first_steps(dataclasses.replace(EXPERIMENT, model=model), 1, steps=24)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-8:]) < 0.95 * np.mean(losses[:4])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MMDiT(width=30, heads=4), "divisible by 4 and by its 4 heads"),
        (lambda: MMDiT(depth=2, skip=(2,)), "names blocks 0 .. 1"),
        (lambda: Flux(width=16, heads=2, axes=(2, 2, 2)), "sum to the features of a head"),
    ],
)
def test_sizes_that_do_not_fit_are_said(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("network", "conditions", "options", "words"),
    [
        (JOINT, (), {"capture": ("attention",)}, "captures tokens after blocks"),
        (JOINT, (), {"layout": object()}, "layout must be None"),
        (dataclasses.replace(JOINT, grid=2), (), {}, "up to 2 x 2 patches"),
        (FLUX, (), {"capture": ("block/3",)}, "'block/0' .. 'block/2'"),
        (
            FLUX,
            (condition("a", "tokens", jnp.zeros((8, 2, 3))), condition("b", "tokens", jnp.zeros((8, 2, 4)))),
            {},
            "of one number of features",
        ),
    ],
)
def test_what_it_cannot_read_is_said(network, conditions, options, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda: network.init(jax.random.key(0), noisy(), conditions, **options))
