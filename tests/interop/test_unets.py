"""Published layouts of U-Nets and of transformers of two streams: round trips, orders, and strict names."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from unified_jax.errors import UserError
from unified_jax.interop import mmdit, unets
from unified_jax.interop.unets import Layout
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.networks.flux import Flux
from unified_jax.networks.mmdit import MMDiT, position_table
from unified_jax.networks.unet.adm import Adm, Classifier
from unified_jax.networks.unet.levels import Level
from unified_jax.networks.unet.network import UNet
from unified_jax.networks.unet.released import load_unet
from unified_jax.sharding import unbox

TEXT = ConditionInput(ConditionForm("text", "tokens", 6, 3, null="none"), jnp.zeros((1, 3, 6)))
POOLED = ConditionInput(ConditionForm("pooled", "vector", 5, null="none"), jnp.zeros((1, 5)))
LABEL = ConditionInput(ConditionForm("y", "label", 4), jnp.zeros(1, jnp.int32))
NOISY = NoisyInput(Form("image", (8, 8, 3), (2, 2), 4), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))
WITH_TEXT = UNet(
    down=(Level(8, 1, "tokens", 2, depth=(2,), context_only=True), Level(16, 2)), middle=Level(16, 2, "tokens", 4),
    groups=4,
)  # fmt: skip
WITHOUT = UNet(
    down=(Level(8, 1, "itself", 2, change="residual"), Level(16, 1)), middle=Level(16, 2, "itself", 4), groups=4
)


def params_of(network, conditions=()):
    given = (jnp.zeros((1, 8, 8, 3)), jnp.zeros(1)) if isinstance(network, Classifier) else ((NOISY,), conditions)
    shapes = jax.eval_shape(lambda: unbox(network.init(jax.random.key(0), *given)["params"]))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for left, right in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_array_equal(left, right)


def trees():
    """(name, how its parameters are made, write, read) of each layout."""
    text, class_ = (
        functools.partial(params_of, *given) for given in ((WITH_TEXT, (TEXT, POOLED)), (WITHOUT, (LABEL,)))
    )
    image = UNet(
        down=(Level(8, 1, "both", 2),), middle=None, groups=4, added="normed", vector_tokens=3, vector_features=6
    )
    layouts = [("image", functools.partial(params_of, image, (POOLED,)), Layout(added="add_embedding.image_proj"))]
    layouts += [("text", text, Layout(projection="convolution"))]
    layouts += [("text_compvis", text, Layout("compvis")), ("class", class_, Layout())]
    layouts += [("adm", class_, Layout("compvis")), ("adm_new", class_, Layout("compvis", order="kinds"))]
    for pool in ("attention", "adaptive", "spatial", "spatial_v2"):
        network = Classifier(5, Adm(8, 1, (2,), (1, 2), num_head_channels=8), pool, groups=4)
        layouts.append((pool, functools.partial(params_of, network), Layout("compvis")))
    for name, tree, layout in layouts:
        yield (
            name, tree, functools.partial(unets.write, layout=layout),
            functools.partial(unets.read, layout=layout),
        )  # fmt: skip
    joint = MMDiT(depth=4, width=16, heads=2, qk_norm=True, dual=(1,), grid=8, base=4)
    flux = Flux(depth=2, single_depth=1, width=16, heads=2, axes=(2, 2, 4))
    for name, network, sd3 in (("sd3", joint, True), ("flux", flux, False)):
        options = {"side": 2, "sd3": sd3}
        tree = functools.partial(params_of, network, (POOLED, TEXT))
        yield name, tree, functools.partial(mmdit.write, **options), functools.partial(mmdit.read, **options)


CASES = {name: rest for name, *rest in trees()}
WIDE = {"image", "text_compvis", "adm_new", "adaptive", "spatial", "spatial_v2"}


@functools.cache
def case(name):
    """(parameters, write, read); the parameters are made where a test needs them."""
    make, write, read = CASES[name]
    return make(), write, read


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.nightly) if n in WIDE else n for n in CASES])
def test_a_round_trip_is_exact_and_names_are_strict(name):
    tree, write, read = case(name)
    theirs = write(tree)
    same(read("The file", theirs, expected=tree), tree)
    first, second, third, *_ = sorted(theirs, key=lambda n: theirs[n].size, reverse=True)
    broken = dict(theirs) | {first: theirs[first][:-1], "stray.weight": theirs[second]}
    del broken[third]
    with pytest.raises(UserError) as said:
        read("The file", broken, expected=tree)
    assert all(word in str(said.value) for word in (first, "stray.weight", third, "wrong shape", "missing", "unmapped"))


def test_names_are_those_of_the_published_files():
    diffusers, compvis, adm = (set(case(n)[1](case(n)[0])) for n in ("text", "text_compvis", "adm"))
    assert "down_blocks.0.attentions.0.transformer_blocks.1.attn2.to_k.weight" in diffusers
    assert "up_blocks.0.upsamplers.0.conv.weight" in diffusers
    assert "output_blocks.2.1.conv.weight" in compvis  # the level has no attention
    assert "output_blocks.3.1.transformer_blocks.0.ff.net.0.proj.weight" in compvis
    assert {"input_blocks.2.0.in_layers.2.weight", "label_emb.weight", "input_blocks.1.1.qkv.weight"} <= adm
    assert case("text")[1](case("text")[0])["mid_block.attentions.0.proj_in.weight"].shape == (16, 16, 1, 1)


def test_the_two_orders_are_one_projection_permuted():
    old, new = (case(n)[1](case(n)[0]) for n in ("adm", "adm_new"))
    name = "middle_block.1.qkv.weight"
    heads_first = old[name].reshape(4, 3, 4, 16, 1)  # heads, queries keys values, features of a head
    np.testing.assert_array_equal(heads_first.swapaxes(0, 1).reshape(48, 16, 1), new[name])
    assert not np.array_equal(old[name], new[name])


def test_old_names_of_attention_over_positions_are_read():
    tree, write, read = case("class")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in write(tree).items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = value
    assert "mid_block.attentions.0.proj_attn.bias" in renamed
    same(read("The file", renamed, expected=tree), tree)


def test_a_patch_of_flux_is_channel_row_column_in_its_files():
    tree, write, _ = case("flux")
    kernel = tree["patch"]["kernel"].reshape(2, 2, 3, 16)
    np.testing.assert_array_equal(write(tree)["x_embedder.weight"].T.reshape(3, 2, 2, 16), kernel.transpose(2, 0, 1, 3))
    out = tree["final"]["bias"].reshape(2, 2, 4)
    np.testing.assert_array_equal(write(tree)["proj_out.bias"].reshape(4, 2, 2), out.transpose(2, 0, 1))
    first = case("sd3")[1](case("sd3")[0])["pos_embed.proj.weight"]
    expected = case("sd3")[0]["patch"]["kernel"].reshape(2, 2, 3, 16)
    np.testing.assert_array_equal(first, expected.transpose(3, 2, 0, 1))


def test_another_table_of_positions_is_refused():
    table = position_table(16, 8, 4, (8, 8))
    stored = {"pos_embed.pos_embed": table[None].astype(np.float16), "a": np.zeros(2)}
    assert set(mmdit.without_positions("The file", stored, table)) == {"a"}
    for other in (position_table(16, 8, 8, (8, 8))[None], table[None, :9]):
        with pytest.raises(UserError, match="set the network's grid and base"):
            mmdit.without_positions("The file", stored | {"pos_embed.pos_embed": other}, table)
    with pytest.raises(UserError, match="holds no pos_embed"):
        mmdit.without_positions("The file", {}, table)


@pytest.mark.parametrize("name", [pytest.param("text", marks=pytest.mark.nightly), "class"])
def test_a_folder_of_diffusers_is_opened_and_written_again(root, tmp_path, name):
    path = root / "tests" / "goldens" / f"unets_{name}.safetensors"
    with safe_open(path, "np") as opened:
        cfg = json.loads(opened.metadata()["golden"])["cfg"]
    weights = {n[6:]: value for n, value in load_file(path).items() if n.startswith("param/")}
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps(cfg["ctor"] | {"_class_name": cfg["cls"], "_diffusers_version": "0"})
    )
    found = load_unet(tmp_path)
    same(unets.write(found.params, found.layout), weights)
    assert found.network.groups == 2
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(UserError, match="of the class 'AutoencoderKL'; expected UNet2DConditionModel"):
        load_unet(tmp_path)
