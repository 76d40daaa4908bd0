r"""SigLIP as transformers stores it (SiglipTextModel, SiglipVisionModel, or both in one SiglipModel) <-> ours.

theirs                                          ours
[text_model.]embeddings, encoder, final_..      as CLIP's
[text_model.]head                               projection                      with a bias

[vision_model.]embeddings.patch_embedding       patch                           with a bias; no class token
[vision_model.]post_layernorm                   norm
[vision_model.]head.probe, .attention           head/probe, head/{qkv,out}_*    queries, keys, values in one array
[vision_model.]head.layernorm, head.mlp         head/norm, head/mlp
"""

from collections.abc import Mapping
from typing import Any

from unified_jax.interop.clip import TextFields, VisionFields, text_lines, text_wanted, vision_wanted
from unified_jax.interop.encoder_lines import Fused, OneRow, clip_block_lines, patch_lines
from unified_jax.interop.folder import Settings
from unified_jax.interop.table import BIAS, Form, Line, Table, linear, norm

TEXT_KINDS = ("siglip", "siglip_text_model")
VISION_KINDS = ("siglip", "siglip_vision_model")
TEXT_WANTED, VISION_WANTED = text_wanted, vision_wanted


def text_fields(config: Mapping[str, Any], what: str) -> TextFields:
    """Those that a config.json says, of a text tower or of both towers. Raises UserError for what is not served."""
    config = config.get("text_config") or config
    s = Settings(config, what)
    s.require("model_type", *TEXT_KINDS)
    width = s.get("hidden_size", 768)
    return TextFields(
        vocabulary=s.get("vocab_size", 32000),
        length=s.get("max_position_embeddings", 64),
        width=width,
        depth=s.get("num_hidden_layers", 12),
        heads=s.get("num_attention_heads", 12),
        hidden=s.get("intermediate_size", 3072),
        activation=s.activation("hidden_act", "gelu_pytorch_tanh"),
        eps=s.get("layer_norm_eps", 1e-6),
        projection=width if config.get("projection_size") is None else s.get("projection_size", 0),
        projection_bias=True,
        causal=False,
        pool="last",
        end=1,
    )


def vision_fields(config: Mapping[str, Any], what: str) -> VisionFields:
    """Those that a config.json says, of a vision tower or of both towers. Raises UserError for what is not served."""
    config = config.get("vision_config") or config
    s = Settings(config, what)
    s.require("model_type", *VISION_KINDS)
    return VisionFields(
        size=s.side("image_size", 224),
        patch=s.side("patch_size", 16),
        channels=s.get("num_channels", 3),
        width=s.get("hidden_size", 768),
        depth=s.get("num_hidden_layers", 12),
        heads=s.get("num_attention_heads", 12),
        hidden=s.get("intermediate_size", 3072),
        activation=s.activation("hidden_act", "gelu_pytorch_tanh"),
        eps=s.get("layer_norm_eps", 1e-6),
        class_token=False,
        patch_bias=True,
        first_norm=False,
        pool="probe" if s.get("vision_use_head", True) else "none",
    )


def text_table(prefix: str) -> Table:
    """The lines of a text tower."""
    return (*text_lines(prefix), *linear("projection", f"{prefix}head"))


def vision_table(prefix: str, pooled: bool, channels: int = 3) -> Table:
    """The lines of a vision tower."""
    head = f"{prefix}head"
    pool = (
        Line("head/probe", (f"{head}.probe",), OneRow()),
        Line("head/qkv_kernel", (f"{head}.attention.in_proj_weight",), Fused()),
        Line("head/qkv_bias", (f"{head}.attention.in_proj_bias",), Fused()),
        Line("head/out_kernel", (f"{head}.attention.out_proj.weight",), Form(inputs=2)),
        Line("head/out_bias", (f"{head}.attention.out_proj.bias",), BIAS),
        *norm("head/norm", f"{head}.layernorm"),
        *linear("head/mlp/fc1", f"{head}.mlp.fc1"),
        *linear("head/mlp/fc2", f"{head}.mlp.fc2"),
    )
    return (
        *patch_lines("patch", f"{prefix}embeddings.patch_embedding", channels),
        Line("positions", (f"{prefix}embeddings.position_embedding.weight",)),
        *clip_block_lines(prefix),
        *norm("norm", f"{prefix}post_layernorm"),
        *(pool if pooled else ()),
    )
