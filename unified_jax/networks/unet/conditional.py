"""Stable Diffusion's U-Nets (1.x, 2.x, XL and their kin), from the configuration of diffusers' UNet2DConditionModel.

Their conditions are tokens (text), labels (the noise level of an upscaler), and vectors and scalars: SDXL's pooled text
with its sizes and crops, the image's vector of the image variations, AudioLDM's text. Released configurations say
`attention_head_dim` for the number of heads.
"""

from collections.abc import Mapping
from typing import Any, Literal

from unified_jax.errors import UserError
from unified_jax.interop.unets import Layout
from unified_jax.networks.unet.embedding import Added
from unified_jax.networks.unet.levels import Change, Level, Reads
from unified_jax.networks.unet.network import UNet

Config = Mapping[str, Any]

FIXED: dict[str, Any] = {
    "resnet_skip_time_act": False, "resnet_out_scale_factor": 1.0, "dual_cross_attention": False,
    "num_attention_heads": None, "time_embedding_type": "positional", "time_embedding_act_fn": None,
    "timestep_post_act": None, "attention_type": "default", "cross_attention_norm": None,
    "mid_block_only_cross_attention": None,
}  # fmt: skip
"""Options that have one value here."""

DEFAULTS: dict[str, Any] = FIXED | {
    "in_channels": 4, "out_channels": 4, "center_input_sample": False, "flip_sin_to_cos": True, "freq_shift": 0,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "only_cross_attention": False,
    "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2, "downsample_padding": 1,
    "mid_block_scale_factor": 1, "act_fn": "silu", "norm_num_groups": 32, "norm_eps": 1e-5,
    "cross_attention_dim": 1280, "transformer_layers_per_block": 1, "reverse_transformer_layers_per_block": None,
    "attention_head_dim": 8, "use_linear_projection": False, "class_embed_type": None, "addition_embed_type": None,
    "addition_time_embed_dim": None, "num_class_embeds": None, "resnet_time_scale_shift": "default",
    "time_embedding_dim": None, "time_cond_proj_dim": None, "conv_in_kernel": 3, "conv_out_kernel": 3,
    "projection_class_embeddings_input_dim": None, "class_embeddings_concat": False, "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
}  # fmt: skip
"""Of the reference's class; what changes no output is left out."""

KINDS: dict[str, tuple[Reads, Change]] = {
    "DownBlock2D": ("nothing", "conv"),
    "UpBlock2D": ("nothing", "conv"),
    "CrossAttnDownBlock2D": ("tokens", "conv"),
    "CrossAttnUpBlock2D": ("tokens", "conv"),
    "AttnDownBlock2D": ("itself", "conv"),
    "AttnUpBlock2D": ("itself", "conv"),
    "ResnetDownsampleBlock2D": ("nothing", "residual"),
    "ResnetUpsampleBlock2D": ("nothing", "residual"),
    "SimpleCrossAttnDownBlock2D": ("both", "residual"),
    "SimpleCrossAttnUpBlock2D": ("both", "residual"),
}
"""What a block type reads, and how its level is left."""

ADDED: dict[str | None, tuple[Added, str]] = {
    None: ("mlp", "add_embedding"),
    "timestep": ("mlp", "class_embedding"),
    "projection": ("mlp", "class_embedding"),
    "simple_projection": ("linear", "class_embedding"),
    "identity": ("plain", "class_embedding"),
}
"""How `class_embed_type` brings a vector into the embedding, and the module that does."""
ADDITIONS: dict[str, tuple[Added, str]] = {
    "text_time": ("mlp", "add_embedding"),
    "image": ("normed", "add_embedding.image_proj"),
}
"""How `addition_embed_type` does."""
IMAGE_TOKENS = 32
"""Tokens that `image_proj` makes of an image's vector."""


def conditional(config: Config, guided: str = "") -> tuple[UNet, Layout]:
    """(the network, the layout of its published weights) of a diffusers configuration.

    `guided` names the vector condition that carries a distilled model's guidance scale. Raises UserError for an option
    that is not served, ValueError for sizes that do not fit.
    """
    c = DEFAULTS | {name: value for name, value in config.items() if name in DEFAULTS}
    check_fixed("A U-Net", c, FIXED)
    n = len(c["block_out_channels"])
    heads, layers, only = (each(c[k], n) for k in ("attention_head_dim", "layers_per_block", "only_cross_attention"))
    depths = each(c["transformer_layers_per_block"], n)
    back = c["reverse_transformer_layers_per_block"]
    down = tuple(
        level(kind, channels, layers[i], heads[i], depths[i], only[i])
        for i, (kind, channels) in enumerate(zip(c["down_block_types"], c["block_out_channels"], strict=True))
    )
    up = tuple(
        level(
            kind, channels, layers[::-1][i] + 1,
            # The reference's class does not turn the sizes of heads round, only their numbers.
            heads[i] if KINDS.get(kind, ("",))[0] in ("itself", "both") else heads[::-1][i],
            depths[::-1][i] if back is None else back[i], only[::-1][i],
        )
        for i, (kind, channels) in enumerate(zip(c["up_block_types"], c["block_out_channels"][::-1], strict=True))
    )  # fmt: skip
    kind = c["addition_embed_type"]
    if kind not in (None, *ADDITIONS) or c["encoder_hid_dim_type"] not in (None, "image_proj"):
        raise UserError(f"A U-Net's addition_embed_type {kind!r} or encoder_hid_dim_type is not served.")
    added, module = ADDED[c["class_embed_type"]] if kind is None else ADDITIONS[kind]
    network = UNet(
        down=down,
        middle=_middle(c, c["block_out_channels"][-1], heads[-1], depths[-1]),
        up=up,
        time_width=c["time_embedding_dim"] or 0,
        scalar_features=c["addition_time_embed_dim"] or c["block_out_channels"][0],
        added=added,
        vector_tokens=IMAGE_TOKENS if c["encoder_hid_dim_type"] else 0,
        vector_features=c["cross_attention_dim"] if c["encoder_hid_dim_type"] else 0,
        joined=bool(c["class_embeddings_concat"]),
        guided=guided if c["time_cond_proj_dim"] else "",
        input_size=c["conv_in_kernel"],
        output_size=c["conv_out_kernel"],
        **common(c),
    )
    projection = "matrix" if c["use_linear_projection"] else "convolution"
    return network, Layout(projection=projection, added=module)


Version = Literal["1", "2", "xl"]
RELEASED: dict[Version, dict[str, Any]] = {
    "1": {},
    "2": {"attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "xl": {
        "block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20], "use_linear_projection": True,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    },
}  # fmt: skip
"""Options of Stable Diffusion's versions; the tokens have 768, 1024 and 2048 features, XL's vector 1280."""


def stable_diffusion(version: Version) -> UNet:
    """The U-Net of a version of Stable Diffusion."""
    return conditional(RELEASED[version])[0]


def _middle(c: Config, channels: int, heads: int, depth: Any) -> Level | None:
    match c["mid_block_type"]:
        case "UNetMidBlock2DCrossAttn":
            first = depth[0] if isinstance(depth, list | tuple) else depth
            return Level(channels, 2, "tokens", heads, (first,))
        case "UNetMidBlock2DSimpleCrossAttn":
            return Level(channels, 2, "both", channels // heads)
        case "UNetMidBlock2D":
            return Level(channels, 1)
        case None:
            return None
        case kind:
            raise UserError(f"A U-Net's mid_block_type {kind!r} is not served.")


def level(kind: str, channels: int, layers: int, heads: int, depth: Any = 1, only: bool = False) -> Level:
    """The level of one of diffusers' block types; `heads` counts them, or is their size where it reads itself."""
    if kind not in KINDS:
        raise UserError(f"A U-Net's block type {kind!r} is not served; expected one of {', '.join(KINDS)}.")
    reads, change = KINDS[kind]
    if reads == "nothing":
        return Level(channels, layers, change=change)
    if reads in ("itself", "both"):
        return Level(channels, layers, reads, channels // heads, change=change)
    depths = tuple(depth) if isinstance(depth, list | tuple) else (depth,)
    return Level(channels, layers, reads, heads, depths, change, only)


def common(c: Config) -> dict[str, Any]:
    """Fields that the two classes of diffusers share."""
    return {
        "groups": c["norm_num_groups"],
        "eps": c["norm_eps"],
        "activation": "silu" if c["act_fn"] == "swish" else c["act_fn"],
        "scale_shift": c["resnet_time_scale_shift"] == "scale_shift",
        "sine_first": not c["flip_sin_to_cos"],
        "frequency_shift": float(c["freq_shift"]),
        "padded": "around" if c["downsample_padding"] else "after",
        "centred": c["center_input_sample"],
        "middle_scale": float(c["mid_block_scale_factor"]),
    }


def each(value: Any, levels: int) -> list[Any]:
    """The value of each level."""
    return list(value) if isinstance(value, list | tuple) else [value] * levels


def check_fixed(what: str, config: Config, fixed: Config) -> None:
    """Raises UserError for an option with another value than the one that is served."""
    for name, value in fixed.items():
        if config[name] != value:
            raise UserError(f"{what}'s option {name} = {config[name]!r} is not served; expected {value!r}.")
