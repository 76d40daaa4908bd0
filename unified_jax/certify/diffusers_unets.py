"""diffusers' U-Nets of the family `diffusers_model`: their conditions and weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify import Unserved
from unified_jax.certify.options import (
    Check,
    anything,
    count,
    each,
    either,
    flag,
    number,
    optional,
    positive,
    require,
)
from unified_jax.interop.unets import read
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm, Kind
from unified_jax.networks.unet.conditional import DEFAULTS, FIXED, KINDS, conditional
from unified_jax.networks.unet.network import UNet
from unified_jax.networks.unet.plain import plain
from unified_jax.precision import seed_key
from unified_jax.sharding import unbox


def counts(value: Any) -> bool:
    """A positive integer, or lists of them."""
    return count(value) or (isinstance(value, list) and bool(value) and all(counts(one) for one in value))


def flags(value: Any) -> bool:
    """True or False, or a list of them."""
    return flag(value) or each(flag)(value)


def blocks(way: str) -> Check:
    """A list of served block types of this way."""
    return each(either(*(kind for kind in KINDS if way in kind)))


SHARED: dict[str, Check] = {
    "sample_size": anything, "in_channels": count, "out_channels": count, "center_input_sample": flag,
    "time_embedding_dim": optional(count), "freq_shift": number, "flip_sin_to_cos": flag,
    "down_block_types": blocks("Down"), "up_block_types": blocks("Up"), "block_out_channels": each(count),
    "layers_per_block": counts, "mid_block_scale_factor": positive, "downsample_padding": either(0, 1),
    "dropout": number, "norm_num_groups": count, "norm_eps": positive, "num_class_embeds": optional(count),
    "resnet_time_scale_shift": either("default", "scale_shift"),
}  # fmt: skip
CONDITIONAL: dict[str, Check] = SHARED | {name: either(value) for name, value in FIXED.items()}
CONDITIONAL |= {
    "only_cross_attention": flags,
    "mid_block_type": either("UNetMidBlock2DCrossAttn", "UNetMidBlock2DSimpleCrossAttn", "UNetMidBlock2D", None),
    "act_fn": either("silu", "swish", "gelu", "relu", "mish"), "cross_attention_dim": counts,
    "transformer_layers_per_block": counts, "reverse_transformer_layers_per_block": optional(counts),
    "attention_head_dim": counts, "use_linear_projection": flag, "upcast_attention": flag,
    "class_embed_type": either(None, "timestep", "identity", "projection", "simple_projection"),
    "addition_embed_type": either(None, "text_time", "image"), "addition_time_embed_dim": optional(count),
    "time_cond_proj_dim": optional(count), "conv_in_kernel": count, "conv_out_kernel": count,
    "projection_class_embeddings_input_dim": optional(count), "class_embeddings_concat": flag,
    "addition_embed_type_num_heads": anything, "encoder_hid_dim": optional(count),
    "encoder_hid_dim_type": either(None, "image_proj"),
}  # fmt: skip
PLAIN: dict[str, Check] = SHARED | {
    "time_embedding_type": either("positional"), "mid_block_type": either("UNetMidBlock2D", None),
    "layers_per_block": count, "downsample_type": either("conv", "resnet"), "upsample_type": either("conv", "resnet"),
    "act_fn": either("silu", "swish"), "attention_head_dim": optional(count),
    "attn_norm_num_groups": optional(count), "add_attention": flag, "num_train_timesteps": anything,
    "class_embed_type": either(None, "timestep", "identity"),
}  # fmt: skip

ADDED_IN = "in/added_cond_kwargs."


def told(name: str, kind: Kind, value: Any, length: Any = None) -> ConditionInput:
    """An input as a condition that is always there."""
    value = jnp.asarray(value, jnp.float32)
    form = ConditionForm(name, kind, value.shape[-1], value.shape[1] if kind == "tokens" else 1, null="none")
    return ConditionInput(form, value, length=length)


def conditions(tensors: dict[str, np.ndarray], ctor: dict[str, Any]) -> tuple[ConditionInput, ...]:
    """The inputs beside the map and its time, as conditions. Raises Unserved for one that no condition is."""
    given = {name: value for name, value in tensors.items() if name.startswith("in/")}
    for name in ("in/sample", "in/timestep"):
        given.pop(name)
    found = []
    if (y := given.pop("in/class_labels", None)) is not None:
        match ctor.get("class_embed_type"):
            case None:
                rows = ConditionForm("class", "label", ctor["num_class_embeds"])
                found.append(ConditionInput(rows, jnp.asarray(y, jnp.int32)))
            case "timestep":
                found.append(told("class", "scalars", y.reshape(-1, 1)))
            case _:
                found.append(told("class", "vector", y))
    if (features := ctor.get("time_cond_proj_dim")) is not None:
        w = given.pop("in/timestep_cond", np.zeros((len(tensors["in/sample"]), features), np.float32))
        found.append(told("guided", "vector", w))
    added: tuple[tuple[str, Kind], ...] = (
        ("text_embeds", "vector"),
        ("image_embeds", "vector"),
        ("time_ids", "scalars"),
    )
    for name, kind in added:
        if (value := given.pop(ADDED_IN + name, None)) is not None:
            found.append(told(name, kind, value))
    if (tokens := given.pop("in/encoder_hidden_states", None)) is not None:
        found.append(_tokens(tokens, _mask(given, ctor)))
    if given:
        raise Unserved(f"input {min(given)} is not served")
    return tuple(found)


def _mask(given: dict[str, np.ndarray], ctor: dict[str, Any]) -> np.ndarray | None:
    """The mask of the text; blocks of attention to positions and tokens at once take the other one first."""
    c = DEFAULTS | ctor
    kinds = [*c["down_block_types"], *c["up_block_types"], c["mid_block_type"] or ""]
    simple = all("Simple" in kind for kind in kinds if "Attn" in kind)
    mask = given.pop("in/encoder_attention_mask", None)
    return given.pop("in/attention_mask", mask) if simple else mask


def _tokens(tokens: np.ndarray, mask: np.ndarray | None) -> ConditionInput:
    """Attention does not ask for the order of tokens: those that a mask keeps come first."""
    if mask is None:
        return told("text", "tokens", tokens)
    kept = np.asarray(mask) > 0
    order = np.argsort(~kept, axis=1, kind="stable")
    tokens = np.take_along_axis(tokens, order[..., None], axis=1)
    return told("text", "tokens", tokens, jnp.asarray(kept.sum(1), jnp.int32))


def run_conditional(tensors: dict[str, np.ndarray], ctor: dict[str, Any]) -> dict[str, Any]:
    """UNet2DConditionModel."""
    ctor = require(ctor, CONDITIONAL)
    if ctor.get("addition_embed_type") and ctor.get("class_embed_type"):
        raise Unserved("a class_embed_type beside an addition_embed_type is not served")
    if ctor.get("encoder_hid_dim_type") is None and ctor.get("encoder_hid_dim") is not None:
        raise Unserved("an encoder_hid_dim of a text is not served")
    if any("Simple" in kind for kind in ctor.get("down_block_types", [])) and ctor.get("only_cross_attention"):
        raise Unserved("only_cross_attention in blocks of attention to positions and tokens is not served")
    if ctor.get("only_cross_attention") and "in/encoder_attention_mask" in tensors:
        raise Unserved("an encoder_attention_mask, of which half the attention takes no notice, is not served")
    network, layout = conditional(ctor, "guided")
    return _run(network, layout, tensors, ctor, ctor.get("out_channels", 4))


def run_plain(tensors: dict[str, np.ndarray], ctor: dict[str, Any]) -> dict[str, Any]:
    """UNet2DModel."""
    network, layout = plain(require(ctor, PLAIN))
    return _run(network, layout, tensors, ctor, ctor.get("out_channels", 3))


def _run(
    network: UNet, layout: Any, tensors: dict[str, np.ndarray], ctor: dict[str, Any], outputs: int
) -> dict[str, Any]:
    x = jnp.moveaxis(jnp.asarray(tensors["in/sample"]), 1, -1)
    t = jnp.broadcast_to(jnp.asarray(tensors["in/timestep"], jnp.float32), x.shape[:1])
    noisy = NoisyInput(Form("image", x.shape[1:], (1, 1), outputs), x, t)
    given = conditions(tensors, ctor)
    shapes = jax.eval_shape(lambda key: unbox(network.init(key, (noisy,), given)["params"]), seed_key(0))
    weights = {name[6:]: value for name, value in tensors.items() if name.startswith("param/")}
    params = read("The file's U-Net", weights, shapes, layout)

    @jax.jit
    def forward(params: Any, x: Any, t: Any, given: Any) -> Any:
        found: Any = network.apply({"params": params}, (noisy._replace(x=x, t=t),), given)
        return jnp.moveaxis(found[0]["image"], -1, 1)

    return {"sample": forward(params, x, t, given)}


CLASSES = {"UNet2DConditionModel": run_conditional, "UNet2DModel": run_plain}
"""Class of diffusers -> how it is computed here from its constructor's arguments."""
