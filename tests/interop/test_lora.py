"""LoRA files in the layouts of peft, diffusers and kohya: strict names, round trips, and a tuned run's updates."""

import jax
import numpy as np
import pytest

from unified_jax.errors import UserError
from unified_jax.interop import lora
from unified_jax.interop.lora import Update
from unified_jax.interop.names import flatten, unflatten
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.tuned import Tuned, Tuning
from unified_jax.networks.dit import DiT
from unified_jax.networks.unet.levels import Level
from unified_jax.networks.unet.network import UNet
from unified_jax.runs.lora import family_of, merged_params, updates_of

DRAW = np.random.default_rng(0)
WEIGHTS = {"down_blocks.0.to_q.weight": (8, 6), "down_blocks.0.to_out.0.weight": (6, 8), "conv_in.weight": (5, 4, 3, 3)}


def drawn(*shape):
    return DRAW.standard_normal(shape).astype(np.float32)


@pytest.fixture
def updates():
    return {
        "down_blocks.0.to_q": Update(drawn(2, 6), drawn(8, 2), 1.0),
        "down_blocks.0.to_out.0": Update(drawn(2, 8), drawn(6, 2), 1.0),
        "conv_in": Update(drawn(2, 4, 3, 3), drawn(5, 2, 1, 1), 1.0),
    }


@pytest.mark.parametrize("layout", ["peft", "diffusers", "kohya"])
@pytest.mark.parametrize("part", ["unet", "transformer"])
def test_a_file_is_read_as_it_was_written(updates, layout, part):
    arrays = lora.write(updates, layout, part)
    again = lora.read("it", arrays, WEIGHTS, 1.0)
    assert {m: (u.down.tobytes(), u.up.tobytes(), u.alpha) for m, u in again.items()} == {
        m: (u.down.tobytes(), u.up.tobytes(), u.alpha) for m, u in updates.items()
    }


def test_two_updates_of_a_module_and_odd_arrays_are_refused(updates):
    arrays = lora.write(updates, "peft", "unet")
    (first, *_) = sorted(name for name in arrays if ".to_q." in name)
    named = {name.replace(".weight", ".default.weight"): value for name, value in arrays.items()}
    assert lora.read("it", named, WEIGHTS, 1.0).keys() == updates.keys()
    with pytest.raises(UserError, match=r"it holds two updates of down_blocks\.0\.to_q"):
        lora.read("it", arrays | named, WEIGHTS, 1.0)
    with pytest.raises(UserError, match=r"lora_A\.weight is \[6\], which is no factor"):
        lora.read("it", arrays | {first: drawn(6)}, WEIGHTS, 1.0)
    kohya = lora.write(updates, "kohya", "unet")
    ones = {name: value.reshape(1) if name.endswith("alpha") else value for name, value in kohya.items()}
    assert lora.read("it", ones, WEIGHTS)["conv_in"].alpha == 1.0


def test_the_update_is_alpha_over_rank_times_b_a():
    one = Update(drawn(4, 3, 3, 3), drawn(5, 4, 1, 1), 2.0)
    wanted = np.einsum("or,rikl->oikl", one.up[..., 0, 0], one.down)
    np.testing.assert_allclose(one.delta(), 0.5 * wanted, rtol=1e-5)
    np.testing.assert_allclose(one.delta(root=True), wanted, rtol=1e-5)
    weight = {"conv_in.weight": drawn(5, 3, 3, 3)}
    np.testing.assert_allclose(
        lora.merged(weight, {"conv_in": one}, 0.5)["conv_in.weight"],
        weight["conv_in.weight"] + 0.25 * wanted,
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_scale_that_no_file_says_is_1(updates):
    arrays = lora.write(updates, "kohya")
    for name in [name for name in arrays if name.endswith(".alpha")]:
        del arrays[name]
    assert {u.alpha for u in lora.read("it", arrays, WEIGHTS).values()} == {2.0}


def test_names_of_older_files_are_read(updates):
    one = updates["down_blocks.0.to_q"]
    for name in ("unet.down_blocks.0.processor.to_q_lora.{}.weight", "down_blocks.0.to_q.lora.{}.weight"):
        arrays = {name.format("down"): one.down, name.format("up"): one.up}
        assert set(lora.read("it", arrays, WEIGHTS)) == {"down_blocks.0.to_q"}
    older = "unet.down_blocks.0.processor.to_out_lora.{}.weight"
    two = updates["down_blocks.0.to_out.0"]
    assert set(lora.read("it", {older.format("down"): two.down, older.format("up"): two.up}, WEIGHTS)) == {
        "down_blocks.0.to_out.0"
    }


CASES = {
    "an unknown module": ("no module of this model: elsewhere", {"elsewhere.lora_A.weight": drawn(2, 6)}),
    "one factor alone": ("one factor of conv_in", {"conv_in.lora_A.weight": drawn(2, 4, 3, 3)}),
    "another size": (
        "down_blocks.0.to_q is",
        {"down_blocks.0.to_q.lora_A.weight": drawn(2, 7), "down_blocks.0.to_q.lora_B.weight": drawn(8, 2)},
    ),
    "two ranks": (
        "ranks 2 and 3",
        {"down_blocks.0.to_q.lora_A.weight": drawn(2, 6), "down_blocks.0.to_q.lora_B.weight": drawn(8, 3)},
    ),
    "a text encoder": ("text encoder", {"lora_te_text_model_fc1.lora_down.weight": drawn(2, 6)}),
    "a DoRA": ("DoRA", {"lora_unet_conv_in.dora_scale": drawn(1, 4)}),
    "nothing": ("no low-rank update", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_refused_by_name(case):
    words, arrays = CASES[case]
    with pytest.raises(UserError, match=words):
        lora.read("it", arrays, WEIGHTS)


def filled(shapes):
    return unflatten({name: 0.1 * drawn(*s.shape) for name, s in flatten(shapes).items()})


def test_a_tuned_run_gives_a_file_whose_merge_is_the_tuned_model():
    """Joint projections, halves of a gated layer, stacked blocks and convolutions: each is one array of ours."""
    network = UNet((Level(4, 1, "tokens", 2, (2,)),), Level(4, 2, "itself", 2), groups=2)
    model = Diffusion(network, modality=Image(8, 8, 3, 1), conditions=())
    tuning = Tuning(train=(), lora=("attn1/qkv", "blocks/mlp/kernel", "middle/residual_0/conv1"), rank=2, alpha=3.0)
    tuned = Tuned(model, tuning)
    base = filled(jax.eval_shape(model.init, jax.random.key(0)))
    trained = filled(jax.eval_shape(tuned.init, jax.random.key(0)))
    wanted = flatten(tuned.compose({"base": base, "own": {}, "lora": trained["lora"]}))
    part, updates = updates_of(tuned, trained)
    assert part == "unet"
    assert "down_blocks.0.attentions.0.transformer_blocks.1.attn1.to_v" in updates
    for layout in ("peft", "kohya", "diffusers"):
        said = lora.adapter_config(updates) if layout == "peft" else {}
        found = flatten(merged_params(model, base, "it", lora.write(updates, layout, part), said))
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, atol=2e-6, err_msg=name)
    with pytest.raises(UserError, match="DoRA"):
        merged_params(model, base, "it", {}, {"use_dora": True})


def test_other_networks_and_parameters_trained_in_full_are_refused():
    model = Diffusion(DiT(depth=1, width=8, heads=1), modality=Image(8, 8, 3, 4), conditions=(Label("label", 2),))
    with pytest.raises(UserError, match="is a DiT"):
        family_of(model, {})
    with pytest.raises(UserError, match="trained a in full"):
        updates_of(Tuned(model, Tuning(train=("a",))), {"own": {"a": drawn(2)}, "lora": {}})
