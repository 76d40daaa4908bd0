"""UniDiffuser's U-ViT: family `uvit` (v0, and v1 with a token of the type of data), and diffusers' UniDiffuserModel."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify import Unserved
from unified_jax.certify.options import (
    Check,
    anything,
    count,
    either,
    flag,
    mapping,
    named,
    number,
    optional,
    positive,
    require,
)  # fmt: skip
from unified_jax.interop import uvit as interop
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.networks.uvit import UVit
from unified_jax.precision import seed_key
from unified_jax.sharding import unbox

TOP: dict[str, Check] = dict.fromkeys(("seed", "batch", "t_img", "t_text", "dt", "big"), anything)
TOP |= {"ver": either("v0", "v1"), "ctor": mapping}
SIZES = ("img_size", "in_chans", "patch_size", "embed_dim", "depth", "num_heads")
CTOR: dict[str, Check] = dict.fromkeys((*SIZES, "text_dim", "num_text_tokens", "clip_img_dim"), count)
CTOR |= {"mlp_ratio": positive, "qkv_bias": flag, "mlp_time_embed": flag, "qk_scale": either(None)}
CTOR |= dict.fromkeys(("drop_rate", "attn_drop_rate", "pos_drop_rate", "use_checkpoint"), anything)
CTOR |= {"norm_layer": anything}
DEFAULTS: dict[str, Any] = {
    "img_size": 224, "patch_size": 16, "in_chans": 3, "embed_dim": 768, "depth": 12, "num_heads": 12,
    "mlp_ratio": 4.0, "qkv_bias": False, "mlp_time_embed": False,
}  # fmt: skip
"""Of UniDiffuser's UViT."""

SHARED = ("in_channels", "num_text_tokens", "num_layers", "num_attention_heads", "attention_head_dim", "sample_size")
DIFFUSERS: dict[str, Check] = dict.fromkeys((*SHARED, "patch_size", "text_dim", "clip_img_dim"), count)
DIFFUSERS |= {"out_channels": optional(count), "activation_fn": either("gelu", "gelu-approximate")}
DIFFUSERS |= {"attention_bias": flag, "use_timestep_embedding": flag, "use_data_type_embedding": flag}
DIFFUSERS |= {"norm_type": either("layer_norm"), "block_type": either("unidiffuser"), "pre_layer_norm": either(False)}
DIFFUSERS |= {"norm_elementwise_affine": either(True), "use_patch_pos_embed": either(False)}
DIFFUSERS |= {"cross_attention_dim": either(None), "only_cross_attention": either(False), "dropout": number}
DIFFUSERS |= {"num_vector_embeds": either(None)}
UNUSED = ("norm_num_groups", "num_embeds_ada_norm", "use_linear_projection", "upcast_attention", "ff_final_dropout")
DIFFUSERS |= dict.fromkeys(UNUSED, anything)
DIFFUSERS_DEFAULTS: dict[str, Any] = {
    "text_dim": 768, "clip_img_dim": 512, "num_text_tokens": 77, "num_attention_heads": 16, "attention_head_dim": 88,
    "num_layers": 1, "out_channels": None, "activation_fn": "geglu", "attention_bias": False,
    "use_timestep_embedding": False, "use_data_type_embedding": False,
}  # fmt: skip
"""Of diffusers' UniDiffuserModel."""


def noisy(arrays: tuple[Any, ...], times: tuple[Any, ...], cut: int, channels: int) -> tuple[NoisyInput, ...]:
    """The latent, channels last, the CLIP token and the text; the first two share the first of two times."""
    x, clip, text = arrays
    t_image, t_text = times
    forms = (
        Form("image", x.shape[1:], (cut, cut), channels),
        Form("clip", clip.shape[1:], (1,), clip.shape[-1]),
        Form("text", text.shape[1:], (1,), text.shape[-1]),
    )
    each = zip(forms, arrays, (t_image, t_image, t_text), strict=True)
    return tuple(NoisyInput(form, one, t) for form, one, t in each)


def forward(
    network: UVit, layout: interop.Layout, weights: dict[str, np.ndarray], given: list[tuple[Any, ...]], kinds: Any
) -> list[dict[str, Any]]:
    """The outputs for each of the inputs; the first of them is of the table's size. Weights must come back as read."""
    types = ConditionForm("data_type", "label", 2, null="row")
    shown = () if kinds is None else (ConditionInput(types, jnp.asarray(kinds, jnp.int32)),)
    shapes = unbox(jax.eval_shape(lambda: network.init(seed_key(0), given[0], shown)))["params"]
    params = interop.read("The file's U-ViT", weights, layout, shapes)
    for name, value in interop.write(params, layout).items():
        if value.tobytes() != np.ascontiguousarray(weights[name]).tobytes():
            raise ValueError(f"{name} does not survive a round trip")
    params = jax.tree.map(jnp.asarray, params)
    call: Any = jax.jit(lambda p, one, shown: network.apply({"params": p}, one, shown)[0])
    return [call(params, one, shown) for one in given]


def run(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """`img`, `clip_img`, `text`, and `big.` of a larger image, whose positions are resampled."""
    top = require(config, TOP)
    c = DEFAULTS | require(top.get("ctor", {}), CTOR)
    if c["depth"] < 2:
        raise Unserved(named("depth", c["depth"]))
    side = c["img_size"] // c["patch_size"]
    network = UVit(
        depth=c["depth"] // 2 * 2, width=c["embed_dim"], heads=c["num_heads"], mlp_ratio=c["mlp_ratio"], norms="post",
        qkv_bias=c["qkv_bias"], time_mlp=c["mlp_time_embed"], clocks=("image", "text"), grid=(side, side),
    )  # fmt: skip
    layout = interop.Layout(False, c["in_chans"], c["qkv_bias"], c["mlp_time_embed"], top.get("ver") == "v1")
    weights = {name[6:]: value for name, value in tensors.items() if name.startswith("param/")}
    given = []
    for name in ("img", "img_big"):
        if f"in/{name}" in tensors:
            x = jnp.moveaxis(jnp.asarray(tensors[f"in/{name}"]), 1, -1)
            rest = tuple(jnp.asarray(tensors[f"in/{part}"]) for part in ("clip_img", "text"))
            times = tuple(jnp.asarray(tensors[f"in/{part}"], jnp.float32) for part in ("t_img", "t_text"))
            given.append(noisy((x, *rest), times, c["patch_size"], c["in_chans"]))
    out: dict[str, Any] = {}
    every = forward(network, layout, weights, given, tensors.get("in/data_type"))
    for found, prefix in zip(every, ("", "big.")[: len(every)], strict=True):
        out |= {f"{prefix}img": jnp.moveaxis(found["image"], -1, 1)}
        out |= {f"{prefix}clip_img": found["clip"], f"{prefix}text": found["text"]}
    return out


def run_diffusers(tensors: dict[str, np.ndarray], ctor: dict[str, Any]) -> dict[str, Any]:
    """UniDiffuserModel: outputs 0 (latent), 1 (CLIP token), 2 (text)."""
    c = DIFFUSERS_DEFAULTS | require(ctor, DIFFUSERS)
    if c["activation_fn"] == "geglu":
        raise Unserved(named("activation_fn", "geglu"))
    if c["num_layers"] < 2:
        raise Unserved(named("num_layers", c["num_layers"]))
    side = c["sample_size"] // c["patch_size"]
    network = UVit(
        depth=c["num_layers"] // 2 * 2, width=c["num_attention_heads"] * c["attention_head_dim"],
        heads=c["num_attention_heads"], norms="post", qkv_bias=c["attention_bias"],
        time_mlp=c["use_timestep_embedding"], clocks=("image", "text"), grid=(side, side),
        activation="gelu" if c["activation_fn"] == "gelu" else "gelu_tanh",
    )  # fmt: skip
    layout = interop.Layout(
        True, c["in_channels"], c["attention_bias"], c["use_timestep_embedding"], c["use_data_type_embedding"]
    )
    weights = {name[6:]: value for name, value in tensors.items() if name.startswith("param/")}
    x = jnp.moveaxis(jnp.asarray(tensors["in/latent_image_embeds"]), 1, -1)
    clip, text = (jnp.asarray(tensors[f"in/{name}_embeds"]) for name in ("image", "prompt"))
    times = tuple(
        jnp.broadcast_to(jnp.asarray(tensors[f"in/timestep_{part}"], jnp.float32), (len(x),))
        for part in ("img", "text")
    )
    given = noisy((x, clip, text), times, c["patch_size"], c["out_channels"] or c["in_channels"])
    kinds = None
    if c["use_data_type_embedding"]:
        kinds = np.broadcast_to(tensors.get("in/data_type", np.ones(1, np.int32)), (len(x),))
    (found,) = forward(network, layout, weights, [given], kinds)
    return {"0": jnp.moveaxis(found["image"], -1, 1), "1": found["clip"], "2": found["text"]}
