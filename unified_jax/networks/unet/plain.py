"""DDPM's U-Net and its kin (consistency models, class-conditional ADM in diffusers' names), from the configuration of
diffusers' UNet2DModel. The condition, if there is one, is a class; all attention is over positions.
"""

from dataclasses import replace
from typing import Any

from unified_jax.interop.unets import Layout
from unified_jax.networks.unet.conditional import ADDED, Config, check_fixed, common, level
from unified_jax.networks.unet.levels import Change, Level
from unified_jax.networks.unet.network import UNet

FIXED: dict[str, Any] = {"time_embedding_type": "positional"}
"""Options that have one value here."""

DEFAULTS: dict[str, Any] = FIXED | {
    "in_channels": 3, "out_channels": 3, "center_input_sample": False, "time_embedding_dim": None, "freq_shift": 0,
    "flip_sin_to_cos": True, "down_block_types": ["DownBlock2D"] + ["AttnDownBlock2D"] * 3,
    "mid_block_type": "UNetMidBlock2D", "up_block_types": ["AttnUpBlock2D"] * 3 + ["UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896], "layers_per_block": 2, "mid_block_scale_factor": 1,
    "downsample_padding": 1, "downsample_type": "conv", "upsample_type": "conv", "act_fn": "silu",
    "attention_head_dim": 8, "norm_num_groups": 32, "attn_norm_num_groups": None, "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default", "add_attention": True, "class_embed_type": None, "num_class_embeds": None,
}  # fmt: skip
"""Of the reference's class; what changes no output is left out."""

CHANGES: dict[str, Change] = {"conv": "conv", "resnet": "residual"}


def plain(config: Config) -> tuple[UNet, Layout]:
    """(the network, the layout of its published weights) of a diffusers configuration.

    Raises UserError for an option that is not served, ValueError for sizes that do not fit.
    """
    c = DEFAULTS | {name: value for name, value in config.items() if name in DEFAULTS}
    check_fixed("A U-Net", c, FIXED)
    size, channels = c["attention_head_dim"], c["block_out_channels"]

    def levels(kinds: list[str], wide: list[int], layers: int, change: str) -> tuple[Level, ...]:
        found = [level(kind, n, layers, size or n) for kind, n in zip(kinds, wide, strict=True)]
        return tuple(replace(one, change=CHANGES[change]) if one.reads == "itself" else one for one in found)

    groups = c["attn_norm_num_groups"]
    if groups is None:
        groups = None if c["resnet_time_scale_shift"] == "default" else 0
    last, middle = channels[-1], None
    if c["mid_block_type"] is not None:
        heads = last // (size or last)
        middle = Level(last, 2, "itself", heads) if c["add_attention"] else Level(last, 2)
    added, module = ADDED[c["class_embed_type"]]
    network = UNet(
        down=levels(c["down_block_types"], channels, c["layers_per_block"], c["downsample_type"]),
        middle=middle,
        up=levels(c["up_block_types"], channels[::-1], c["layers_per_block"] + 1, c["upsample_type"]),
        time_width=c["time_embedding_dim"] or 0,
        scalar_features=channels[0],
        added=added,
        middle_groups=groups,
        **common(c),
    )
    return network, Layout(added=module)
