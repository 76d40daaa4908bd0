"""diffusers' transformers of two streams in the family `diffusers_model`: Stable Diffusion 3 and Flux."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify import Unserved
from unified_jax.certify.options import Check, count, each, either, flag, optional, require, whole
from unified_jax.interop.mmdit import read, without_positions
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm, Kind
from unified_jax.networks.flux import Flux
from unified_jax.networks.mmdit import MMDiT, position_table
from unified_jax.precision import seed_key
from unified_jax.sharding import unbox

SIZES = ("num_layers", "attention_head_dim", "num_attention_heads", "joint_attention_dim", "pooled_projection_dim")
SD3: dict[str, Check] = dict.fromkeys((*SIZES, "sample_size", "patch_size", "in_channels"), count) | {
    "caption_projection_dim": count, "out_channels": optional(count), "pos_embed_max_size": count,
    "dual_attention_layers": each(whole), "qk_norm": either(None, "rms_norm"),
}  # fmt: skip
SD3_DEFAULTS: dict[str, Any] = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 18, "attention_head_dim": 64,
    "num_attention_heads": 18, "out_channels": 16, "pos_embed_max_size": 96, "dual_attention_layers": [],
    "qk_norm": None, "caption_projection_dim": 1152,
}  # fmt: skip
FLUX: dict[str, Check] = dict.fromkeys((*SIZES, "num_single_layers", "in_channels"), count) | {
    "patch_size": either(1), "out_channels": optional(count), "guidance_embeds": flag, "axes_dims_rope": each(count),
}  # fmt: skip
FLUX_DEFAULTS: dict[str, Any] = {
    "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
    "num_attention_heads": 24, "out_channels": None, "guidance_embeds": False, "axes_dims_rope": [16, 56, 56],
}  # fmt: skip


def run_sd3(tensors: dict[str, np.ndarray], ctor: dict[str, Any]) -> dict[str, Any]:
    """SD3Transformer2DModel."""
    c = SD3_DEFAULTS | require(ctor, SD3)
    width = c["num_attention_heads"] * c["attention_head_dim"]
    if c["caption_projection_dim"] != width:
        raise Unserved(f"a caption_projection_dim other than the width {width} is not served")
    side, grid = c["patch_size"], c["pos_embed_max_size"]
    network = MMDiT(
        depth=c["num_layers"], width=width, heads=c["num_attention_heads"], qk_norm=c["qk_norm"] is not None,
        dual=tuple(c["dual_attention_layers"]), grid=grid, base=c["sample_size"] // side,
    )  # fmt: skip
    x = jnp.moveaxis(jnp.asarray(tensors["in/hidden_states"]), 1, -1)
    outputs = c["out_channels"] or c["in_channels"]
    noisy = NoisyInput(Form("image", x.shape[1:], (side, side), outputs), x, times(tensors, len(x), 1.0))
    expected = position_table(width, grid, network.base, (grid, grid))
    weights = without_positions("The file's MMDiT", _weights(tensors), expected)
    found = _called(network, noisy, _conditions(tensors), weights, side, True)
    return {"sample": jnp.moveaxis(found, -1, 1)}


def run_flux(tensors: dict[str, np.ndarray], ctor: dict[str, Any]) -> dict[str, Any]:
    """FluxTransformer2DModel."""
    c = FLUX_DEFAULTS | require(ctor, FLUX)
    network = Flux(
        depth=c["num_layers"], single_depth=c["num_single_layers"], heads=c["num_attention_heads"],
        width=c["num_attention_heads"] * c["attention_head_dim"], axes=tuple(c["axes_dims_rope"]),
    )  # fmt: skip
    tokens = jnp.asarray(tensors["in/hidden_states"])
    sizes = grid_sizes(tensors["in/img_ids"], tensors["in/txt_ids"])
    x = tokens.reshape(len(tokens), *sizes, -1)
    outputs = c["out_channels"] or c["in_channels"]
    noisy = NoisyInput(Form("image", x.shape[1:], (1, 1), outputs), x, times(tensors, len(x), 1000.0))
    given = _conditions(tensors)
    if c["guidance_embeds"]:
        scale = jnp.asarray(tensors["in/guidance"], jnp.float32).reshape(-1, 1)
        given = (*given, ConditionInput(ConditionForm("guidance", "scalars", 1, null="none"), scale))
    found = _called(network, noisy, given, _weights(tensors), 1, False)
    return {"sample": found.reshape(len(tokens), tokens.shape[1], -1)}


def grid_sizes(image: np.ndarray, text: np.ndarray) -> tuple[int, int]:
    """(rows, columns) of an image whose positions are (0, row, column). Raises Unserved for other positions."""
    image, text = (ids.reshape(-1, ids.shape[-1])[: ids.shape[-2]] for ids in (image, text))
    rows, columns = (int(image[:, axis].max()) + 1 for axis in (1, 2))
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)
    if len(image) != rows * columns or np.any(image[:, 0]) or np.any(image[:, 1:] != places) or np.any(text):
        raise Unserved("positions other than those of one image's rows and columns, 0 for the text, are not served")
    return rows, columns


def times(tensors: dict[str, np.ndarray], batch: int, scale: float) -> jax.Array:
    """The times of a batch."""
    return scale * jnp.broadcast_to(jnp.asarray(tensors["in/timestep"], jnp.float32), (batch,))


def _conditions(tensors: dict[str, np.ndarray]) -> tuple[ConditionInput, ...]:
    found = []
    named: tuple[tuple[str, str, Kind], ...] = (
        ("in/pooled_projections", "pooled", "vector"),
        ("in/encoder_hidden_states", "text", "tokens"),
    )
    for name, label, kind in named:
        value = jnp.asarray(tensors[name])
        length = value.shape[1] if kind == "tokens" else 1
        found.append(ConditionInput(ConditionForm(label, kind, value.shape[-1], length, null="none"), value))
    return tuple(found)


def _weights(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name[6:]: value for name, value in tensors.items() if name.startswith("param/")}


def _called(
    network: Any, noisy: NoisyInput, given: tuple[ConditionInput, ...], weights: dict[str, np.ndarray], side: int,
    sd3: bool,
) -> jax.Array:  # fmt: skip
    shapes = jax.eval_shape(lambda key: unbox(network.init(key, (noisy,), given)["params"]), seed_key(0))
    params = read("The file's transformer", weights, shapes, side, sd3)
    forward = jax.jit(lambda params, noisy, given: network.apply({"params": params}, (noisy,), given))
    found: Any = forward(params, noisy, given)
    return found[0]["image"]


CLASSES: dict[str, Callable[..., dict[str, Any]]] = {
    "SD3Transformer2DModel": run_sd3,
    "FluxTransformer2DModel": run_flux,
}
"""Class of diffusers -> how it is computed here from its constructor's arguments."""
