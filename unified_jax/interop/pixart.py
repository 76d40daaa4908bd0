r"""PixArt as diffusers stores it (PixArtTransformer2DModel: alpha and Sigma) <-> our tree.

theirs                                          ours
pos_embed.proj                                  patch                           a convolution as a matrix
caption_projection.linear_{1,2}                 text_NAME_fc{1,2}
adaln_single.emb.timestep_embedder.linear_..    time/fc{1,2}
adaln_single.emb.resolution_embedder.linear_..  size_fc{1,2}
adaln_single.emb.aspect_ratio_embedder.line..   aspect_fc{1,2}
adaln_single.linear                             modulation
transformer_blocks.i.scale_shift_table          blocks/table
transformer_blocks.i.attn1                      blocks/attention
transformer_blocks.i.attn2                      blocks/cross_NAME
transformer_blocks.i.ff.net.{0.proj,2}          blocks/mlp/fc{1,2}
scale_shift_table, proj_out                     final_table, final

Released files of alpha also hold `caption_projection.y_embedding`, the null of its training, which no sampler reads.
"""

from collections.abc import Mapping
from typing import Any

from unified_jax.interop.encoder_lines import patch_lines
from unified_jax.interop.table import BIAS, Form, Line, Table, linear

UNUSED = "caption_projection.y_embedding"


def read_by_the_network(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a file without the null of alpha's training: an absent prompt is the empty one."""
    return {name: value for name, value in tensors.items() if name != UNUSED}


def table(name: str, channels: int, *, sizes: bool, bias: bool = True) -> Table:
    """The lines of a network with one text of this name; `sizes`: with a resolution and an aspect ratio.

    The numbers' conditions are called "size" and "aspect".
    """
    layer, emb = "transformer_blocks.{i}", "adaln_single.emb"
    extra: Table = ()
    for ours, theirs in (
        ("time/fc", "timestep_embedder"),
        ("size_fc", "resolution_embedder"),
        ("aspect_fc", "aspect_ratio_embedder"),
    ):
        if sizes or ours == "time/fc":
            for i in ("1", "2"):
                extra += linear(f"{ours}{i}", f"{emb}.{theirs}.linear_{i}")
    first, second = "blocks/attention", f"blocks/cross_{name}"
    own = tuple(f"{layer}.attn1.to_{part}" for part in "qkv")
    other = tuple(f"{layer}.attn2.to_{part}" for part in "kv")
    biases = (
        Line(f"{first}/qkv_bias", tuple(f"{one}.bias" for one in own), Form(inputs=0, joined=1)),
        Line(f"{second}/q_bias", (f"{layer}.attn2.to_q.bias",), BIAS),
        Line(f"{second}/kv_bias", tuple(f"{one}.bias" for one in other), Form(inputs=0, joined=1)),
    )
    return (
        *patch_lines("patch", "pos_embed.proj", channels),
        *linear(f"text_{name}_fc1", "caption_projection.linear_1"),
        *linear(f"text_{name}_fc2", "caption_projection.linear_2"),
        *extra,
        *linear("modulation", "adaln_single.linear"),
        Line("blocks/table", (f"{layer}.scale_shift_table",)),
        Line(f"{first}/qkv_kernel", tuple(f"{one}.weight" for one in own), Form(inputs=1, joined=2)),
        Line(f"{first}/out_kernel", (f"{layer}.attn1.to_out.0.weight",), Form(inputs=2)),
        Line(f"{first}/out_bias", (f"{layer}.attn1.to_out.0.bias",), BIAS),
        Line(f"{second}/q_kernel", (f"{layer}.attn2.to_q.weight",), Form(inputs=1)),
        Line(f"{second}/kv_kernel", tuple(f"{one}.weight" for one in other), Form(inputs=1, joined=2)),
        Line(f"{second}/out_kernel", (f"{layer}.attn2.to_out.0.weight",), Form(inputs=2)),
        Line(f"{second}/out_bias", (f"{layer}.attn2.to_out.0.bias",), BIAS),
        *(biases if bias else ()),
        *linear("blocks/mlp/fc1", f"{layer}.ff.net.0.proj"),
        *linear("blocks/mlp/fc2", f"{layer}.ff.net.2"),
        Line("final_table", ("scale_shift_table",)),
        *linear("final", "proj_out"),
    )
