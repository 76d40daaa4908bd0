"""Autoencoders and quantisers serve the reference's classes: options of released configurations agree with diffusers
and vector-quantize-pytorch (`goldens/make_autoencoders.py`), and others are refused by name.
"""

import functools
import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from unified_jax.certify import Unserved
from unified_jax.certify.autoencoders import RUNNERS
from unified_jax.certify.files import certify_file
from unified_jax.certify.levels_autoencoder import first, last, shapes_of
from unified_jax.interop.autoencoders import levels, settings
from unified_jax.networks.autoencoders import tiling
from unified_jax.networks.autoencoders.coder import Levels
from unified_jax.networks.autoencoders.kl import KlAutoencoder

PATH = Path(__file__).parents[1] / "goldens" / "arrays" / "autoencoders_small.safetensors"


@functools.cache
def stored():
    with safe_open(PATH, "np") as opened:
        return json.loads(opened.metadata()["cases"]), load_file(PATH)


def drawn(name, shape):
    """As in make_autoencoders.py."""
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    last_part = name.rpartition(".")[2]
    if last_part == "running_var":
        return 1 + 0.2 * abs(x)
    if last_part in ("alpha", "beta", "bias", "running_mean"):
        return 0.1 * x
    if last_part == "weight_g" or (last_part == "weight" and len(shape) == 1):
        return 1 + 0.1 * x
    if name == "quantize.embedding.weight":
        return x
    return (x / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)


def golden(case):
    """(family, configuration, tensors of a golden file)."""
    meta, tensors = stored()[0][case], stored()[1]
    held = {name[len(case) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{case}/")}
    params = {f"param/{name}": drawn(name, shape) for name, shape in meta["params"].items()}
    params |= {f"param/{name[8:]}": value for name, value in held.items() if name.startswith("in/held.")}
    params |= {name: value for name, value in held.items() if not name.startswith("in/held.")}
    return meta["family"], meta["cfg"], {name: np.array(value, np.float32 if value.dtype == np.float64 else None)
                                         for name, value in params.items()}  # fmt: skip


def certified(folder, family, config, tensors):
    """Output -> verdict of a golden file of these."""
    path = folder / "one.safetensors"
    save_file(tensors, path, metadata={"golden": json.dumps({"family": family, "cfg": config})})
    return {row.output: row.verdict for row in certify_file(path, {})}


CASES = sorted(set(stored()[0]) - {"tiled"})
WIDE = {"movq", "strided", "bsq", "fsq_two", "fsq_projected"}


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.nightly) if c in WIDE else c for c in CASES])
def test_options_of_released_configurations_agree_with_the_reference(case, tmp_path):
    family, config, tensors = golden(case)
    rows = certified(tmp_path, family, config, tensors)
    assert set(rows.values()) == {"pass"}, rows


@pytest.mark.nightly
def test_a_value_that_is_moved_by_a_thousandth_fails(tmp_path):
    family, config, tensors = golden("sound")
    moved = tensors["out/decode_z"]
    tensors["out/decode_z"] = moved + np.float32(1e-3 * abs(moved).max())
    rows = certified(tmp_path, family, config, tensors)
    assert {name for name, verdict in rows.items() if verdict != "pass"} == {"decode_z"}


@pytest.mark.parametrize(
    ("case", "option", "value"),
    [
        ("kl", "act_fn", "relu"),
        ("kl", "down_block_types", ["DownEncoderBlock2D", "KDownBlock2D"]),
        ("kl", "new_option", 1),
        ("vq", "norm_type", "ada"),
        ("deep", "decoder_act_fns", "mish"),
        ("deep", "encoder_block_types", "GLUBlock"),
        ("sound", "strides", [2]),
        ("cosine", "kmeans_init", True),
        ("cosine", "threshold_ema_dead_code", 2),
        ("fsq_bits", "noise_dropout", 0.5),
        ("bsq", "frac_per_sample_entropy", 0.5),
    ],
)
def test_an_option_that_is_not_served_is_named(case, option, value):
    family, config, tensors = golden(case)
    config = config | {"ctor": config["ctor"] | {option: value}}
    with pytest.raises(Unserved, match=f"option {option} = .* is not served"):
        RUNNERS[family](tensors, config)


def test_another_class_is_named():
    with pytest.raises(Unserved, match='option cls = "AutoencoderTiny" is not served'):
        RUNNERS["diffusers_vae"]({}, {"cls": "AutoencoderTiny", "ctor": {}})


@pytest.mark.nightly
def test_blended_tiles_are_those_of_diffusers():
    """A wide picture and a high latent."""
    _, config, tensors = golden("tiled")
    c = settings.KL | config["ctor"]
    network = KlAutoencoder(Levels(**settings.levels("", c)._asdict()))
    x = last(tensors["in/x"])
    weights = {name[6:]: value for name, value in tensors.items() if name.startswith("param/")}
    params = jax.tree.map(jnp.asarray, levels.read("", weights, shapes_of(network, x)))
    blended = tiling.Tiling("blended", c["sample_size"] // network.levels.factor)
    found = tiling.encode(network, params, x, blended)
    want = tensors["out/moments"]
    np.testing.assert_allclose(first(found.mean), want[:, :4], atol=2e-5 * abs(want).max())
    image = tiling.decode(network, params, last(tensors["in/z"]), blended)
    np.testing.assert_allclose(first(image), tensors["out/decoded"], atol=2e-5 * abs(tensors["out/decoded"]).max())
