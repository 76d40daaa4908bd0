r"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193), also with registers, as transformers stores it <-> our tree.

    theirs                                          ours
    embeddings.cls_token, .register_tokens          class_token, registers
    embeddings.patch_embeddings.projection          patch                           a convolution as a matrix
    embeddings.position_embeddings                  positions
    encoder.layer.i.{norm1,norm2}                   blocks/attention/norm_*, blocks/norm
    encoder.layer.i.attention.attention.{query,..}  blocks/attention/qkv_*          joined head by head
    encoder.layer.i.attention.output.dense          blocks/attention/out_*
    encoder.layer.i.layer_scale{1,2}.lambda1        blocks/attention/scale, blocks/scale
    encoder.layer.i.mlp.{fc1,fc2}                   blocks/mlp/{fc1,fc2}
    encoder.layer.i.mlp.{weights_in,weights_out}    the same, gated                 both halves in one array
    layernorm                                       norm
    embeddings.mask_token                           none: of the training

Newer programs split weights_in into gate_proj and up_proj and call weights_out down_proj: read as the published file.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from unified_jax.interop.clip import VisionFields
from unified_jax.interop.encoder_lines import OneRow, block_lines, patch_lines
from unified_jax.interop.folder import Settings
from unified_jax.interop.table import BIAS, MATRIX, Line, Table, linear, norm

PLAIN, REGISTERS = "dinov2", "dinov2_with_registers"
KINDS = (PLAIN, REGISTERS)


def fields(config: Mapping[str, Any], what: str) -> VisionFields:
    """Those that a config.json says. Raises UserError for what is not served."""
    s = Settings(config, what)
    s.require("model_type", *KINDS)
    registers = config.get("model_type", PLAIN) == REGISTERS
    width, gated = s.get("hidden_size", 768), s.get("use_swiglu_ffn", False)
    hidden = int(width * s.get("mlp_ratio", 4.0))
    return VisionFields(
        size=s.side("image_size", 224),
        patch=s.side("patch_size", 16 if registers else 14),
        channels=s.get("num_channels", 3),
        width=width,
        depth=s.get("num_hidden_layers", 12),
        heads=s.get("num_attention_heads", 12),
        hidden=(int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden,
        activation="silu" if gated else s.activation("hidden_act", "gelu"),
        eps=s.get("layer_norm_eps", 1e-6),
        registers=s.get("num_register_tokens", 4) if registers else 0,
        patch_bias=True,
        qkv_bias=s.get("qkv_bias", True),
        first_norm=False,
        layer_scale=True,
        gated=gated,
        antialias=registers,
    )


def table(fields: VisionFields) -> Table:
    """The lines of a network with these fields."""
    layer = "encoder.layer.{i}"
    attention, mlp = f"{layer}.attention", f"{layer}.mlp"
    q, k, v = (f"{attention}.attention.{part}" for part in ("query", "key", "value"))
    dense = (f"{mlp}.fc1", f"{mlp}.fc2")
    blocks = block_lines(
        (f"{layer}.norm1", f"{layer}.norm2"), (q, k, v), f"{attention}.output.dense", dense, fields.qkv_bias
    )
    if fields.gated:
        blocks = (
            *(line for line in blocks if "/mlp/" not in line.ours),
            Line("blocks/mlp/fc1/kernel", (f"{mlp}.weights_in.weight",), MATRIX),
            Line("blocks/mlp/fc1/bias", (f"{mlp}.weights_in.bias",), BIAS),
            *linear("blocks/mlp/fc2", f"{mlp}.weights_out"),
        )
    registers = (Line("registers", ("embeddings.register_tokens",), OneRow()),) if fields.registers else ()
    return (
        Line("class_token", ("embeddings.cls_token",), OneRow()),
        *registers,
        *patch_lines("patch", "embeddings.patch_embeddings.projection", fields.channels),
        Line("positions", ("embeddings.position_embeddings",), OneRow()),
        *blocks,
        Line("blocks/attention/scale", (f"{layer}.layer_scale1.lambda1",)),
        Line("blocks/scale", (f"{layer}.layer_scale2.lambda1",)),
        *norm("norm", "layernorm"),
    )


def wanted(name: str) -> bool:
    """Whether an encoder reads this array."""
    return name != "embeddings.mask_token"


def published(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays by the names of published files, with both halves of a gated MLP in one."""
    found = {name.replace(".down_proj.", ".weights_out."): value for name, value in tensors.items()}
    for name in [name for name in found if ".mlp.gate_proj." in name]:
        other = name.replace(".gate_proj.", ".up_proj.")
        if other in found:
            halves = [found.pop(name), found.pop(other)]
            found[name.replace(".gate_proj.", ".weights_in.")] = np.concatenate(halves)
    return found
