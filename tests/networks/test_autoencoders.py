"""Autoencoders: tiles give the whole picture, meshes and bfloat16 the same, weights go out and come back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from unified_jax.config import from_plain, to_plain
from unified_jax.errors import UserError
from unified_jax.interop.autoencoders import dc, levels
from unified_jax.interop.autoencoders.settings import Statistics
from unified_jax.interop.names import flatten, unflatten
from unified_jax.models.autoencoding import SD, Autoencoding, autoencoder
from unified_jax.models.stages import Decoder, Encoder, Published
from unified_jax.networks.autoencoders.blend import blended, seams
from unified_jax.networks.autoencoders.coder import Levels
from unified_jax.networks.autoencoders.dc import DcAutoencoder, Side
from unified_jax.networks.autoencoders.dc_blocks import LinearAttention
from unified_jax.networks.autoencoders.kl import KlAutoencoder
from unified_jax.networks.autoencoders.oobleck import Oobleck
from unified_jax.networks.autoencoders.tiling import Tiling
from unified_jax.networks.autoencoders.vq import VqAutoencoder
from unified_jax.sharding import MeshShape, Rules, make_mesh, parameter_shardings

SMALL = Levels(widths=(32, 32), blocks=1, encoder_attention=(False, True), decoder_attention=(False, True))
STAGE = Autoencoding(KlAutoencoder(SMALL), (16, 12, 3), scale=(0.5,), shift=(0.1,))
TINY = KlAutoencoder(Levels(widths=(4, 4), groups=2, blocks=1, decoder_attention=(False, True)))
EXACT = Tiling("exact", 4)


def drawn(stage, seed=0):
    """Nothing is at zero, so that every part of the network matters."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, leaf in flatten(jax.eval_shape(stage.init, jax.random.key(0))).items():
        x = rng.normal(size=leaf.shape).astype(np.float32)
        fan = max(1, int(np.prod(leaf.shape[:-1])))
        gain = name.endswith(("gain", "variance"))
        made[name] = jnp.asarray(1 + 0.2 * x if gain else x / np.sqrt(fan) if x.ndim > 1 else 0.1 * x, jnp.float32)
    return unflatten(made)


@functools.cache
def parameters():
    return drawn(STAGE)


moments = jax.jit(lambda stage, params, x: stage.moments(params, x), static_argnums=0)
decode = jax.jit(lambda stage, params, z: stage.decode(params, z), static_argnums=0)


def close(found, want, share):
    """Whether they agree to a share of the largest value; pytest shows what is asserted of it."""
    return float(jnp.abs(jnp.asarray(found) - want).max()) <= share * float(jnp.abs(want).max())


@functools.cache
def pictures():
    """(stage, its parameters, moments and picture without tiles) of a picture that tiles do not divide."""
    stage = Autoencoding(TINY, (22, 18, 3))
    x = jax.random.normal(jax.random.key(2), (2, *stage.shape))
    found = moments(stage, drawn(stage), x)
    return stage, drawn(stage), x, found, decode(stage, drawn(stage), found.mean)


@pytest.mark.nightly
def test_exact_tiles_are_the_whole_picture():
    """Also where margins are wider than a tile and beyond the picture, and with attention before the tiles."""
    stage, params, x, want, image = pictures()
    tiles = Autoencoding(TINY, stage.shape, tiling=EXACT)
    found = moments(tiles, params, x)
    assert close(found.mean, want.mean, 1e-5)
    assert close(found.logvar, want.logvar, 1e-5)
    assert close(decode(tiles, params, want.mean), image, 1e-5)


@pytest.mark.nightly
def test_a_mesh_gives_what_one_device_gives_and_spreads_the_tiles():
    """Four devices hold the batch; a single picture's tiles take its place."""
    stage, params, _, want, image = pictures()
    mesh, rules = make_mesh(MeshShape(data=2, fsdp=2, tensor=2)), Rules()
    cut = jax.device_put(params, parameter_shardings(mesh, rules, stage.axes(), params))
    tiles = Autoencoding(TINY, stage.shape, tiling=EXACT)
    with rules.active(mesh):
        two = jax.jit(stage.decode)(cut, jnp.concatenate([want.mean] * 2))
        one = jax.jit(tiles.decode).lower(cut, want.mean[:1]).compile()
        assert close(two[:2], image, 1e-5)
        assert close(one(cut, want.mean[:1]), image[:1], 1e-5)
    assert "all-reduce" in one.as_text() or "all-gather" in one.as_text()


@pytest.mark.nightly
def test_bfloat16_is_close():
    stage, params, x, want, _ = pictures()
    short = Autoencoding(KlAutoencoder(Levels(**{**vars(TINY.levels), "dtype": "bfloat16"})), stage.shape)
    found = moments(short, params, x)
    assert found.mean.dtype == jnp.float32
    assert close(found.mean, want.mean, 0.05)


def test_latents_are_normalised():
    stage, params, _, want, image = pictures()
    assert isinstance(STAGE, Encoder)
    assert isinstance(STAGE, Decoder)
    assert isinstance(STAGE, Published)
    keys = jax.random.split(jax.random.key(3), 2)
    scaled = Autoencoding(TINY, stage.shape, (0.5,), (0.1,), draw="sample")
    noise = jax.vmap(lambda key: jax.random.normal(key, want.mean.shape[1:]))(keys)
    assert close(scaled.latents(want, keys), (want.mean + jnp.exp(want.logvar / 2) * noise - 0.1) * 0.5, 1e-5)
    assert close(scaled.latents(want), (want.mean - 0.1) * 0.5, 1e-5)
    assert close(decode(scaled, params, scaled.latents(want)), image, 1e-5)


STAGES = {
    "vq": Autoencoding(VqAutoencoder(Levels(widths=(8, 8), groups=4, blocks=1), 12, 3), (8, 8, 3)),
    "coded": Autoencoding(VqAutoencoder(Levels(widths=(32,), blocks=1, coded=True), 9, 4), (4, 4, 3)),
    "dc": Autoencoding(
        DcAutoencoder(
            3, 4, Side((8, 8), (0, 1), ("res", "vit"), ((), (3,)), ("rms",) * 2, ("silu",) * 2),
            Side((8, 8), (0, 1), ("res", "vit"), ((), ()), ("batch", "batch"), ("relu",) * 2), 4,
        ), (8, 8, 3), scale=(1.0, 2.0, 3.0, 4.0),
    ),
    "sound": Autoencoding(Oobleck(1, 2, 4, 4, (1, 2), (2, 4)), (32, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_weights_go_out_and_come_back_and_a_configuration_too(name, tmp_path):
    stage = STAGES[name]
    assert from_plain(to_plain(stage)) == stage
    params = drawn(stage)
    save_file(stage.write(params), tmp_path / "model.safetensors")
    back = stage.read(str(tmp_path / "model.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, params, back)


@pytest.mark.parametrize("layout", ["diffusers", "original", pytest.param("old", marks=pytest.mark.nightly)])
def test_a_file_is_read_in_each_layout_and_its_sizes_with_it(layout, tmp_path):
    theirs = levels.write(parameters(), "original" if layout == "original" else "diffusers")
    if layout == "original":  # a checkpoint of a whole latent diffusion model
        theirs = {f"first_stage_model.{name}": value for name, value in theirs.items()}
        theirs |= {"first_stage_model.loss.logvar": np.zeros(1), "model.diffusion_model.time.weight": np.zeros(1)}
        theirs |= {"cond_stage_model.position_ids": np.zeros(3, np.int64)}
    if layout == "old":
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            theirs = {name.replace(new, old): value for name, value in theirs.items()}
    save_file(theirs, tmp_path / "vae.safetensors")
    found, params = autoencoder(tmp_path / "vae.safetensors", SD, size=16)
    assert (found.network, found.scale, found.shape) == (STAGE.network, (0.18215,), (16, 16, 3))
    assert found.finds(str(tmp_path / "vae.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, parameters(), params)
    with pytest.raises(UserError, match="does not say the scale of its latents"):
        autoencoder(tmp_path / "vae.safetensors")


def test_names_of_the_authors_of_dc_ae_become_those_of_diffusers():
    qkv = np.arange(24.0).reshape(12, 2, 1, 1)
    theirs = {
        "encoder.project_in.conv.conv.weight": "encoder.conv_in.conv.weight",
        "encoder.stages.1.op_list.0.main.conv2.norm.weight": "encoder.down_blocks.1.0.norm.weight",
        "encoder.stages.1.op_list.1.main.conv.conv.bias": "encoder.down_blocks.1.1.conv.bias",
        "encoder.stages.2.op_list.0.context_module.main.aggreg.0.1.weight":
            "encoder.down_blocks.2.0.attn.to_qkv_multiscale.0.proj_out.weight",
        "encoder.stages.2.op_list.0.context_module.main.proj.norm.bias": "encoder.down_blocks.2.0.attn.norm_out.bias",
        "encoder.stages.2.op_list.0.local_module.main.point_conv.norm.weight":
            "encoder.down_blocks.2.0.conv_out.norm.weight",
        "encoder.project_out.main.op_list.0.conv.weight": "encoder.conv_out.weight",
        "decoder.project_in.main.conv.weight": "decoder.conv_in.weight",
        "decoder.project_out.op_list.0.weight": "decoder.norm_out.weight",
        "decoder.project_out.op_list.2.conv.weight": "decoder.conv_out.weight",
    }  # fmt: skip
    held = dict.fromkeys(theirs, np.zeros(1)) | {"decoder.stages.0.op_list.1.context_module.main.qkv.conv.weight": qkv}
    found = dc.own(held)
    assert set(found) - set(theirs.values()) == {f"decoder.up_blocks.0.1.attn.to_{x}.weight" for x in "qkv"}
    assert set(theirs.values()) <= set(found)
    np.testing.assert_array_equal(found["decoder.up_blocks.0.1.attn.to_k.weight"], qkv[4:8, :, 0, 0])


def test_keys_that_are_missing_renamed_or_reshaped_are_one_error(tmp_path):
    theirs = levels.write(parameters())
    del theirs["encoder.conv_in.bias"]
    theirs["decoder.conv_out.scale"] = theirs.pop("decoder.conv_out.weight")
    theirs["quant_conv.weight"] = theirs["quant_conv.weight"][..., 0]
    save_file(theirs, tmp_path / "vae.safetensors")
    with pytest.raises(UserError) as error:
        STAGE.read(str(tmp_path / "vae.safetensors"))
    for words in ("unmapped: decoder.conv_out.scale", "missing: decoder.conv_out.weight, encoder.conv_in.bias",
                  "quant_conv.weight found [8, 8, 1] expected [8, 8, 1, 1]"):  # fmt: skip
        assert words in str(error.value)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"groups do not divide the widths \[12\]"):
        Levels(widths=(32, 12))
    with pytest.raises(ValueError, match=r"Autoencoding\.scale has 3 numbers for 4 channels"):
        Autoencoding(STAGE.network, STAGE.shape, scale=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="Only a KlAutoencoder is computed in tiles"):
        Autoencoding(STAGES["dc"].network, (8, 8, 3), tiling=EXACT)
    assert Statistics() == ((1.0,), (0.0,))


@pytest.mark.nightly
def test_seams_of_a_smooth_picture_cannot_be_seen_and_those_of_steps_can():
    ramp = jnp.broadcast_to(jnp.arange(16.0)[:, None] + jnp.arange(16.0), (1, 16, 16))[..., None]
    assert float(seams(ramp, [8], [8])) == pytest.approx(1.0)
    steps = ramp.at[:, 8:].add(5.0)
    assert float(seams(steps, [8], [8])) > 2.0
    alike = blended(lambda part: part, ramp, 8, 0.25, 1.0)
    np.testing.assert_allclose(alike, ramp, atol=1e-5)


def test_a_deep_compression_autoencoder_without_convolutions_keeps_a_constant():
    side = Side((8, 16), (1, 1), ("res", "res"), ((), ()), ("rms", "rms"), ("silu", "silu"))
    stage = Autoencoding(DcAutoencoder(4, 8, side, side), (8, 8, 4))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(stage.init, jax.random.key(0)))
    kernel = params["encoder"]["conv_in"]["kernel"]
    params["encoder"]["conv_in"]["kernel"] = kernel.at[1, 1].set(jnp.eye(4, 8))
    # Channels 0 .. 3 are one, 4 .. 7 zero; a channel becomes four, of which pairs are averaged, and pairs again.
    z = moments(stage, params, jnp.ones((1, 8, 8, 4))).mean
    np.testing.assert_array_equal(z, jnp.broadcast_to(jnp.repeat(jnp.asarray([1.0, 0.0]), 4), (1, 4, 4, 8)))


@pytest.mark.nightly
def test_linear_attention_is_the_quadratic_one():
    layer = LinearAttention(4, (), "layer")
    x = jax.random.normal(jax.random.key(0), (1, 3, 5, 8))
    params = jax.tree.map(lambda a: a.value, layer.init(jax.random.key(1), x), is_leaf=lambda a: hasattr(a, "value"))
    params["params"]["norm"]["gain"] = jnp.arange(1.0, 9.0)
    qkv = np.asarray(x.reshape(15, 8) @ params["params"]["qkv_kernel"].reshape(8, 24)).reshape(15, 2, 3, 4)
    q, k, v = np.maximum(qkv[:, :, 0], 0), np.maximum(qkv[:, :, 1], 0), qkv[:, :, 2]
    weights = np.einsum("nge,mge->gnm", q, k)
    a = np.einsum("gnm,mge->nge", weights / (weights.sum(-1, keepdims=True) + 1e-15), v).reshape(15, 8)
    h = a @ np.asarray(params["params"]["out"]["kernel"])
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5) * np.arange(1, 9)
    assert close(jax.jit(layer.apply)(params, x).reshape(15, 8), np.asarray(x).reshape(15, 8) + h, 1e-5)
