"""diffusers' PixArtTransformer2DModel (alpha and Sigma) in the family `diffusers_model`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify import Unserved
from unified_jax.certify.options import Check, anything, count, either, flag, named, number, optional, positive, require
from unified_jax.interop import pixart as interop, table
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.networks.pixart import PixArt
from unified_jax.precision import seed_key
from unified_jax.sharding import unbox

SIZES = ("num_attention_heads", "attention_head_dim", "in_channels", "num_layers", "sample_size", "patch_size")
CTOR: dict[str, Check] = dict.fromkeys((*SIZES, "caption_channels"), count)
CTOR |= {"out_channels": optional(count), "cross_attention_dim": count, "attention_bias": flag, "norm_eps": positive}
CTOR |= {"activation_fn": either("gelu-approximate", "gelu"), "norm_type": either("ada_norm_single")}
CTOR |= {"interpolation_scale": optional(positive), "use_additional_conditions": optional(flag), "dropout": number}
CTOR |= {"norm_elementwise_affine": either(False), "attention_type": either("default")}
CTOR |= dict.fromkeys(("norm_num_groups", "num_embeds_ada_norm", "upcast_attention"), anything)
DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28,
    "sample_size": 128, "patch_size": 2, "attention_bias": True, "norm_eps": 1e-6, "activation_fn": "gelu-approximate",
    "cross_attention_dim": 1152, "interpolation_scale": None, "use_additional_conditions": None,
    "caption_channels": None,
}  # fmt: skip
"""Of diffusers' class."""
INPUTS = ("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask")
ADDED = {"size": "added_cond_kwargs.resolution", "aspect": "added_cond_kwargs.aspect_ratio"}


def options(ctor: dict[str, Any]) -> dict[str, Any]:
    """The constructor's arguments with their defaults. Raises Unserved for those that do not fit each other."""
    c = DEFAULTS | require(ctor, CTOR)
    width = c["num_attention_heads"] * c["attention_head_dim"]
    for name in ("caption_channels", "cross_attention_dim"):
        if c[name] is None or (name == "cross_attention_dim" and c[name] != width):
            raise Unserved(named(name, c[name]))
    if c["use_additional_conditions"] is None:
        c["use_additional_conditions"] = c["sample_size"] == 128
    if c["interpolation_scale"] is None:
        c["interpolation_scale"] = max(c["sample_size"] // 64, 1)
    return c | {"width": width, "out_channels": c["out_channels"] or c["in_channels"]}


def run(tensors: dict[str, np.ndarray], ctor: dict[str, Any]) -> dict[str, Any]:
    """`sample`."""
    c = options(ctor)
    for name in (name[3:] for name in tensors if name.startswith("in/")):
        if name not in (*INPUTS, *ADDED.values()):
            raise Unserved(f"the input {name} is not served")
    network = PixArt(
        depth=c["num_layers"], width=c["width"], heads=c["num_attention_heads"],
        base=c["sample_size"] // c["patch_size"], stretch=float(c["interpolation_scale"]), bias=c["attention_bias"],
        eps=c["norm_eps"], activation="gelu_tanh" if c["activation_fn"] == "gelu-approximate" else "gelu",
    )  # fmt: skip
    x = jnp.moveaxis(jnp.asarray(tensors["in/hidden_states"]), 1, -1)
    form = Form("image", x.shape[1:], (c["patch_size"],) * 2, c["out_channels"])
    t = jnp.broadcast_to(jnp.asarray(tensors["in/timestep"], jnp.float32), (len(x),))
    noisy, given = (NoisyInput(form, x, t),), _conditions(tensors, c["use_additional_conditions"])
    lines = interop.table("text", c["in_channels"], sizes=c["use_additional_conditions"], bias=c["attention_bias"])
    shapes = unbox(jax.eval_shape(lambda: network.init(seed_key(0), noisy, given)))["params"]
    weights = {name[6:]: value for name, value in tensors.items() if name.startswith("param/")}
    params = table.read("The file's PixArt", weights, lines, shapes)
    for name, value in table.write(params, lines).items():
        if value.tobytes() != np.ascontiguousarray(weights[name]).tobytes():
            raise ValueError(f"{name} does not survive a round trip")
    call: Any = jax.jit(lambda p, noisy, given: network.apply({"params": p}, noisy, given)[0]["image"])
    return {"sample": jnp.moveaxis(call(jax.tree.map(jnp.asarray, params), noisy, given), -1, 1)}


def _conditions(tensors: dict[str, np.ndarray], sizes: bool) -> tuple[ConditionInput, ...]:
    """The text with its lengths, and with `sizes` the resolution and the aspect ratio."""
    text = jnp.asarray(tensors["in/encoder_hidden_states"])
    form = ConditionForm("text", "tokens", text.shape[-1], text.shape[1], null="none")
    found = [ConditionInput(form, text, length=_length(tensors.get("in/encoder_attention_mask")))]
    for name, key in ADDED.items() if sizes else ():
        value = jnp.asarray(tensors[f"in/{key}"], jnp.float32)
        found.append(ConditionInput(ConditionForm(name, "scalars", value.shape[1], null="none"), value))
    return tuple(found)


def _length(mask: np.ndarray | None) -> Any:
    """The lengths that a mask says. Raises Unserved for a mask with holes."""
    if mask is None:
        return None
    length = mask.astype(bool).sum(axis=1)
    if mask.ndim != 2 or not (mask == (np.arange(mask.shape[1]) < length[:, None])).all():
        raise Unserved("an encoder_attention_mask that is not 1 up to a length and 0 after it is not served")
    return jnp.asarray(length, jnp.int32)
