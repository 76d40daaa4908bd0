r"""CLIP as transformers stores it (CLIPTextModel, CLIPVisionModel, or both in one CLIPModel) <-> our trees.

    theirs                                          ours
    [text_model.]embeddings.{token,position}_..     tokens, positions
    [text_model.]encoder.layers.i                   blocks                          (`encoder_lines`)
    [text_model.]final_layer_norm                   norm
    text_projection                                 projection

    [vision_model.]embeddings.class_embedding       class_token
    [vision_model.]embeddings.patch_embedding       patch                           a convolution as a matrix
    [vision_model.]embeddings.position_embedding    positions
    [vision_model.]pre_layrnorm, post_layernorm     first_norm, norm
    visual_projection                               projection

A file of both towers is read for either; position_ids is a constant.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from unified_jax.interop.encoder_lines import clip_block_lines, patch_lines
from unified_jax.interop.folder import Settings
from unified_jax.interop.table import MATRIX, Line, Table, norm

TEXT_KINDS = ("clip", "clip_text_model")
VISION_KINDS = ("clip", "clip_vision_model")
OLD_END = 2
"""The end token that CLIP's first files say: it is not the one that ends a text, so they pool at the largest id."""


class TextFields(NamedTuple):
    """The fields of a text tower (`networks.clip.TextTower`)."""

    vocabulary: int
    length: int
    width: int
    depth: int
    heads: int
    hidden: int
    activation: Any
    eps: float
    projection: int
    projection_bias: bool
    causal: bool
    pool: Literal["largest", "end", "last"]
    end: int


class VisionFields(NamedTuple):
    """The fields of a vision transformer (`networks.vit.Vit`)."""

    size: int
    patch: int
    channels: int
    width: int
    depth: int
    heads: int
    hidden: int
    activation: Any
    eps: float
    projection: int = 0
    class_token: bool = True
    registers: int = 0
    patch_bias: bool = False
    qkv_bias: bool = True
    first_norm: bool = True
    layer_scale: bool = False
    gated: bool = False
    antialias: bool = False
    pool: Literal["class", "probe", "none"] = "class"


def tower(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The configuration of one of two towers, which share the width of their projection, or of a tower alone."""
    inner = config.get(name)
    if not inner:
        return config
    return {**inner, "projection_dim": config["projection_dim"]} if "projection_dim" in config else inner


def text_fields(config: Mapping[str, Any], what: str, projected: bool) -> TextFields:
    """Those that a config.json says, of a text tower or of both towers. Raises UserError for what is not served."""
    config = tower(config, "text_config")
    s = Settings(config, what)
    s.require("model_type", *TEXT_KINDS)
    end = s.get("eos_token_id", 49407)
    return TextFields(
        vocabulary=s.get("vocab_size", 49408),
        length=s.get("max_position_embeddings", 77),
        width=s.get("hidden_size", 512),
        depth=s.get("num_hidden_layers", 12),
        heads=s.get("num_attention_heads", 8),
        hidden=s.get("intermediate_size", 2048),
        activation=s.activation("hidden_act", "quick_gelu"),
        eps=s.get("layer_norm_eps", 1e-5),
        projection=s.get("projection_dim", 512) if projected else 0,
        projection_bias=False,
        causal=True,
        pool="largest" if end == OLD_END else "end",
        end=end,
    )


def vision_fields(config: Mapping[str, Any], what: str, projected: bool) -> VisionFields:
    """Those that a config.json says, of a vision tower or of both towers. Raises UserError for what is not served."""
    config = tower(config, "vision_config")
    s = Settings(config, what)
    s.require("model_type", *VISION_KINDS)
    return VisionFields(
        size=s.side("image_size", 224),
        patch=s.side("patch_size", 32),
        channels=s.get("num_channels", 3),
        width=s.get("hidden_size", 768),
        depth=s.get("num_hidden_layers", 12),
        heads=s.get("num_attention_heads", 12),
        hidden=s.get("intermediate_size", 3072),
        activation=s.activation("hidden_act", "quick_gelu"),
        eps=s.get("layer_norm_eps", 1e-5),
        projection=s.get("projection_dim", 512) if projected else 0,
    )


def prefix_of(names: Iterable[str], tower: str) -> str:
    """What the names of a tower begin with, in this file."""
    return tower if any(name.startswith(tower) for name in names) else ""


def text_lines(prefix: str) -> Table:
    """The lines of a text tower below its projection."""
    return (
        Line("tokens", (f"{prefix}embeddings.token_embedding.weight",)),
        Line("positions", (f"{prefix}embeddings.position_embedding.weight",)),
        *clip_block_lines(prefix),
        *norm("norm", f"{prefix}final_layer_norm"),
    )


def text_table(prefix: str, projected: bool) -> Table:
    """The lines of a text tower."""
    return (
        *text_lines(prefix),
        *((Line("projection/kernel", ("text_projection.weight",), MATRIX),) if projected else ()),
    )


def vision_table(prefix: str, projected: bool, channels: int = 3) -> Table:
    """The lines of a vision tower."""
    return (
        Line("class_token", (f"{prefix}embeddings.class_embedding",)),
        *patch_lines("patch", f"{prefix}embeddings.patch_embedding", channels, bias=False),
        Line("positions", (f"{prefix}embeddings.position_embedding.weight",)),
        *norm("first_norm", f"{prefix}pre_layrnorm"),
        *clip_block_lines(prefix),
        *norm("norm", f"{prefix}post_layernorm"),
        *((Line("projection/kernel", ("visual_projection.weight",), MATRIX),) if projected else ()),
    )


def text_wanted(name: str, projected: bool) -> bool:
    """Whether a text tower reads this array."""
    others = ("vision_model.", "visual_projection", "logit_", *(() if projected else ("text_projection",)))
    return not name.startswith(others) and not name.endswith("position_ids")


def vision_wanted(name: str, projected: bool) -> bool:
    """Whether a vision tower reads this array."""
    others = ("text_model.", "text_projection", "logit_", *(() if projected else ("visual_projection",)))
    return not name.startswith(others) and not name.endswith("position_ids")
