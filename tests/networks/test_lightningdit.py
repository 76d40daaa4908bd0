"""LightningDiT: its published size, what its options change, its weights, meshes, what does not fit."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.helpers import call_of
from unified_jax.errors import UserError
from unified_jax.interop import lightningdit as interop
from unified_jax.layers.embeddings import scaled_positions
from unified_jax.modalities.image import Image
from unified_jax.networks.dit import DiT
from unified_jax.networks.lightningdit import flow, lightningdit_preset
from unified_jax.sharding import MeshShape, Rules, logical_axes, make_mesh, parameter_shardings, unbox

IMAGE = Image(4, 8, 3, 2)
SMALL = DiT(depth=2, width=16, heads=2, norm="rms", mlp="swiglu", rotary=True, qk_norm=True, remat="none")


def given(batch=8):
    x = jax.random.normal(jax.random.key(1), (batch, *IMAGE.shape))
    return call_of(IMAGE, x, jnp.linspace(0.0, 1.0, batch), ((6, np.arange(batch) % 5),))


def boxed(network, inputs):
    return jax.eval_shape(lambda key: network.init(key, *inputs)["params"], jax.random.key(0))


@functools.cache
def parameters(network):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), unbox(boxed(network, given()))
    )


def test_xl_has_the_published_number_of_parameters():
    image = Image(16, 16, 32, 1)
    inputs = call_of(image, jnp.zeros((1, 16, 16, 32)), jnp.zeros(1), ((1001, [0]),))
    shapes = unbox(boxed(lightningdit_preset("XL"), inputs))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 674_961_824


def test_a_token_turns_with_its_row_in_the_first_half_of_a_head_and_with_its_column_in_the_second():
    """That queries and keys are turned by these angles is shown by the stored outputs of the published code."""
    turned = SMALL._rotations(scaled_positions(given()[0][0].form, ()), 1)
    assert turned.cos.shape == (1, 8, 4)
    np.testing.assert_allclose(turned.cos[0, 4 + 3], np.cos([1, 0.01, 3, 0.03]), atol=1e-6)  # row 1, column 3
    np.testing.assert_allclose(turned.sin[0, 4 + 3], np.sin([1, 0.01, 3, 0.03]), atol=1e-6)


@functools.cache
def stored():
    path = Path(__file__).parents[1] / "goldens" / "lightningdit_mixed.safetensors"
    return {name[6:]: value for name, value in load_file(path).items() if name.startswith("param/")}


def read(tensors):
    layout = interop.measure(tensors, "The file", 2)
    network, image = DiT(**layout.fields()), Image(6, 6, 4, 3)
    inputs = call_of(image, jnp.zeros((1, 6, 6, 4)), jnp.zeros(1), ((6, [0]),))
    return layout, interop.read("The file", tensors, layout, unbox(boxed(network, inputs)))


def test_weights_go_in_and_out_bitwise_and_say_their_options():
    layout, params = read(stored())
    assert layout.fields() == {
        "depth": 2, "width": 24, "heads": 2, "mlp_ratio": 4.0, "norm": "rms", "mlp": "gelu", "qk_norm": False,
        "rotary": True, "shift": False,
    }  # fmt: skip
    back = interop.write(params, layout)
    assert set(back) == set(stored())
    for name, value in stored().items():
        if name in interop.constants(layout):
            np.testing.assert_allclose(back[name], value, atol=1e-6)
        else:
            assert back[name].tobytes() == value.tobytes(), name
    assert interop.measure({n: v for n, v in stored().items() if "rope" not in n}, "The file", 2).rotary is False


def test_weights_that_do_not_fit_are_listed_together():
    wrong = dict(stored())
    wrong["blocks.1.attn.query.weight"] = wrong.pop("blocks.1.attn.qkv.weight")
    wrong["final_layer.norm_final.weight"] = wrong["final_layer.norm_final.weight"][:-1]
    del wrong["feat_rope.freqs_sin"], wrong["t_embedder.mlp.2.bias"]
    with pytest.raises(UserError, match="The file cannot be converted") as caught:
        read(wrong)
    for words in ("attn.query.weight", "blocks.1.attn.qkv.weight", "norm_final.weight found [23] expected [24]"):
        assert words in str(caught.value)
    assert "feat_rope.freqs_sin" in str(caught.value)
    assert "t_embedder.mlp.2.bias" in str(caught.value)
    trained = stored() | {"feat_rope.freqs_cos": stored()["feat_rope.freqs_cos"] + 0.1}
    with pytest.raises(UserError, match=r"feat_rope\.freqs_cos differs from the table .* by up to 0\.1"):
        read(trained)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no conditioning 'in_context'"):
        SMALL.clone(conditioning="in_context")
    with pytest.raises(ValueError, match="is of a modulation"):
        DiT(conditioning="cross", shift=False)
    with pytest.raises(ValueError, match=r"over 2 axes needs heads divisible by 4, found 6"):
        boxed(DiT(depth=1, width=12, heads=2, rotary=True), given())


def test_the_flow_counts_time_from_noise_and_leans_with_its_shift():
    process = flow()
    t = jnp.asarray([0.25])
    np.testing.assert_allclose(process.network_time(t), [0.75])
    assert process.direction_weight == 1.0
    keys = jax.random.split(jax.random.key(0), 2000)
    middle, leaning = (float(jnp.median(one.draw_times(keys))) for one in (process, flow(shift=4.0)))
    assert middle == pytest.approx(0.5, abs=0.03)
    assert leaning == pytest.approx(0.8, abs=0.03)


@pytest.mark.nightly
@pytest.mark.parametrize("shift", [True, False])
def test_shards_give_one_devices_numbers_and_bfloat16_is_near(shift):
    network = SMALL.clone(shift=shift)
    params, axes = parameters(network), logical_axes(boxed(network, given()))
    out = jax.jit(lambda p: network.apply({"params": p}, *given())[0]["image"])(params)
    mesh, rules = make_mesh(MeshShape(data=2, fsdp=2, tensor=2)), Rules()
    with rules.active(mesh):
        cut = jax.device_put(params, parameter_shardings(mesh, rules, axes, params))
        together = jax.jit(lambda p: network.apply({"params": p}, *given())[0]["image"])(cut)
    np.testing.assert_allclose(together, out, atol=1e-5 * float(np.abs(out).max()))
    rough = network.clone(dtype="bfloat16")
    near = jax.jit(lambda p: rough.apply({"params": p}, *given())[0]["image"])(params)
    assert 0 < np.abs(near - out).mean() < 0.05 * np.abs(out).mean()
