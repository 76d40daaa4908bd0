"""What config.json says of diffusers' transformers: PixArtTransformer2DModel, SD3Transformer2DModel, Flux.

Every option that changes an output is read, or refused by name.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from unified_jax.errors import UserError
from unified_jax.interop.folder import Settings

PIXART = ("PixArtTransformer2DModel", "Transformer2DModel")
"""The class, and the one that it was a part of when PixArt's weights were published."""
SD3, FLUX = ("SD3Transformer2DModel",), ("FluxTransformer2DModel",)


class PixArtOptions(NamedTuple):
    """The fields of `networks.pixart.PixArt`, and what it reads and writes."""

    depth: int
    width: int
    heads: int
    base: int
    stretch: float
    bias: bool
    eps: float
    activation: Any
    patch: int
    channels: int
    outputs: int
    """Channels of the output: those of the latent, or twice as many with a learned variance."""
    sample: int
    """Side of the latent that it was trained on."""
    text: int
    """Features of a token of the text."""
    sizes: bool
    """Whether it reads the picture's size and aspect ratio."""


class Sd3Options(NamedTuple):
    """The fields of `networks.mmdit.MMDiT`, and what it reads."""

    depth: int
    width: int
    heads: int
    qk_norm: bool
    dual: tuple[int, ...]
    grid: int
    base: int
    patch: int
    channels: int
    sample: int
    text: int
    pooled: int


class FluxOptions(NamedTuple):
    """The fields of `networks.flux.Flux`, and what it reads."""

    depth: int
    single_depth: int
    width: int
    heads: int
    axes: tuple[int, int, int]
    channels: int
    """Of the latent: a token is a patch of 2 x 2."""
    text: int
    pooled: int
    guided: bool
    """Whether it reads a guidance scale."""


def pixart(config: Mapping[str, Any], what: str) -> PixArtOptions:
    """Those of PixArt-alpha and Sigma. Raises UserError for an option that is not served."""
    s = Settings(config, what)
    s.require("norm_type", "ada_norm_single")
    s.require("norm_elementwise_affine", False)
    s.require("attention_type", "default")
    s.require("activation_fn", "gelu-approximate", "gelu")
    heads = s.get("num_attention_heads", 16)
    width, sample, patch = heads * s.get("attention_head_dim", 72), s.get("sample_size", 128), s.get("patch_size", 2)
    s.require("cross_attention_dim", width)
    channels, stretch = s.get("in_channels", 4), config.get("interpolation_scale")
    outputs, sizes = config.get("out_channels", 8) or channels, config.get("use_additional_conditions")
    if outputs not in (channels, 2 * channels):
        raise UserError(f"{what}: out_channels is {outputs!r}; expected {channels} or {2 * channels}.")
    return PixArtOptions(
        depth=s.get("num_layers", 28), width=width, heads=heads, base=sample // patch,
        stretch=float(max(sample // 64, 1) if stretch is None else stretch), bias=s.get("attention_bias", True),
        eps=s.get("norm_eps", 1e-6),
        activation="gelu" if config.get("activation_fn") == "gelu" else "gelu_tanh",
        patch=patch, channels=channels, outputs=outputs, sample=sample, text=s.get("caption_channels", 4096),
        sizes=sample == 128 if sizes is None else bool(sizes),
    )  # fmt: skip


def sd3(config: Mapping[str, Any], what: str) -> Sd3Options:
    """Those of Stable Diffusion 3 and 3.5. Raises UserError for an option that is not served."""
    s = Settings(config, what)
    heads, channels = s.get("num_attention_heads", 18), s.get("in_channels", 16)
    width, sample, patch = heads * s.get("attention_head_dim", 64), s.get("sample_size", 128), s.get("patch_size", 2)
    s.require("caption_projection_dim", width)
    s.require("out_channels", channels, None)
    s.require("qk_norm", None, "rms_norm")
    return Sd3Options(
        depth=s.get("num_layers", 18), width=width, heads=heads, qk_norm=config.get("qk_norm") is not None,
        dual=tuple(config.get("dual_attention_layers") or ()), grid=s.get("pos_embed_max_size", 96),
        base=sample // patch, patch=patch, channels=channels, sample=sample, text=s.get("joint_attention_dim", 4096),
        pooled=s.get("pooled_projection_dim", 2048),
    )  # fmt: skip


def flux(config: Mapping[str, Any], what: str) -> FluxOptions:
    """Those of Flux. Raises UserError for an option that is not served."""
    s = Settings(config, what)
    s.require("patch_size", 1)
    features, heads = s.get("in_channels", 64), s.get("num_attention_heads", 24)
    s.require("out_channels", None, features)
    if features % 4:
        raise UserError(f"{what}: in_channels is {features}; expected four numbers for each channel of the latent.")
    axes = tuple(config.get("axes_dims_rope") or (16, 56, 56))
    if len(axes) != 3:
        raise UserError(f"{what}: axes_dims_rope is {list(axes)}; expected three numbers.")
    return FluxOptions(
        depth=s.get("num_layers", 19), single_depth=s.get("num_single_layers", 38),
        width=heads * s.get("attention_head_dim", 128), heads=heads, axes=axes, channels=features // 4,
        text=s.get("joint_attention_dim", 4096), pooled=s.get("pooled_projection_dim", 768),
        guided=s.get("guidance_embeds", False),
    )  # fmt: skip
