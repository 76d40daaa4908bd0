r"""UniDiffuser's U-ViT <-> our tree, in its own layout (libs.uvit_multi_post_ln) and in diffusers' (UniDiffuserModel).

    own                                         diffusers                               ours
    patch_embed.proj, clip_img_embed,           vae_img_in.proj, clip_img_in,           image_in, clip_in, text_in
    text_embed                                  text_in
    decoder_pred, clip_img_out, text_out        vae_img_out, clip_img_out, text_out     image_out, clip_out, text_out
    time_img_embed.{0,2}, time_text_embed       timestep_img_embed.linear_{1,2}, ..     image_time{1,2}, text_time{1,2}
    token_embedding                             data_type_token_embedding               label_0
    pos_embed_token                             data_type_pos_embed_token               label_0_position
    in_blocks.i, mid_block, out_blocks.i        transformer.transformer_in_blocks.i, .. in_blocks, middle, out_blocks
    norm                                        transformer.norm_out                    norm

One table of positions, [image's time, text's time, text, CLIP token, patches], is ours in parts. diffusers also keeps a
patch embedding that it does not use (transformer.pos_embed.proj).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from unified_jax.errors import UserError
from unified_jax.interop import table as tables
from unified_jax.interop.encoder_lines import Fused, OneRow, patch_lines
from unified_jax.interop.table import BIAS, Form, Line, Table, linear, norm
from unified_jax.typing import Params

POSITIONS = "pos_embed"
PARTS = ("time_positions", "text_positions", "clip_positions", "image_positions")
"""Ours, in the order of their table."""
UNUSED = ("transformer.pos_embed.proj.weight", "transformer.pos_embed.proj.bias")


class Layout(NamedTuple):
    """What a published U-ViT has."""

    diffusers: bool
    """Whether names are diffusers'."""
    channels: int
    """Channels of the latent."""
    qkv_bias: bool = False
    time_mlp: bool = False
    data_type: bool = False
    """Whether it has a token of the type of data (v1)."""


def _block_lines(ours: str, theirs: str, own: Layout, joins: bool) -> Table:
    """The lines of a block in their own layout."""
    attention = f"{ours}/attention"
    qkv = f"{theirs}.attn.qkv"
    skip = (*linear(f"{ours}/join", f"{theirs}.skip_linear"), *norm(f"{ours}/join_norm", f"{theirs}.norm1"))
    biases = (Line(f"{attention}/qkv_bias", (f"{qkv}.bias",), Fused()),) if own.qkv_bias else ()
    return (
        *(skip if joins else ()),
        Line(f"{attention}/qkv_kernel", (f"{qkv}.weight",), Fused()),
        *biases,
        Line(f"{attention}/out_kernel", (f"{theirs}.attn.proj.weight",), Form(inputs=2)),
        Line(f"{attention}/out_bias", (f"{theirs}.attn.proj.bias",), BIAS),
        *norm(f"{ours}/attention_norm", f"{theirs}.norm2"),
        *linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1"),
        *linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2"),
        *norm(f"{ours}/mlp_norm", f"{theirs}.norm3"),
    )


def _diffusers_lines(ours: str, theirs: str, own: Layout, joins: bool) -> Table:
    """The lines of a block of diffusers."""
    block = f"{theirs}.block" if joins else theirs
    attention, at = f"{ours}/attention", f"{block}.attn1"
    qkv = tuple(f"{at}.to_{part}" for part in "qkv")
    biases = Line(f"{attention}/qkv_bias", tuple(f"{name}.bias" for name in qkv), Form(inputs=0, joined=1))
    skip = (*linear(f"{ours}/join", f"{theirs}.skip.skip_linear"), *norm(f"{ours}/join_norm", f"{theirs}.skip.norm"))
    return (
        *(skip if joins else ()),
        Line(f"{attention}/qkv_kernel", tuple(f"{name}.weight" for name in qkv), Form(inputs=1, joined=2)),
        *((biases,) if own.qkv_bias else ()),
        Line(f"{attention}/out_kernel", (f"{at}.to_out.0.weight",), Form(inputs=2)),
        Line(f"{attention}/out_bias", (f"{at}.to_out.0.bias",), BIAS),
        *norm(f"{ours}/attention_norm", f"{block}.norm1"),
        *linear(f"{ours}/mlp/fc1", f"{block}.ff.net.0.proj"),
        *linear(f"{ours}/mlp/fc2", f"{block}.ff.net.2"),
        *norm(f"{ours}/mlp_norm", f"{block}.norm3"),
    )


def table(layout: Layout) -> Table:
    """The lines of a published U-ViT, without its positions."""
    d = layout.diffusers
    blocks = _diffusers_lines if d else _block_lines
    inside = "transformer.transformer_" if d else ""
    times: Table = ()
    for ours, theirs in (("image", "img"), ("text", "text")):
        name = f"timestep_{theirs}_embed.linear_" if d else f"time_{theirs}_embed."
        first, second = ("1", "2") if d else ("0", "2")
        times += (*linear(f"{ours}_time1", name + first), *linear(f"{ours}_time2", name + second))
    kind = "data_type_token_embedding" if d else "token_embedding"
    place = "data_type_pos_embed_token" if d else "pos_embed_token"
    types = (Line("label_0/table", (f"{kind}.weight",)), Line("label_0_position", (place,), OneRow()))
    return (
        *patch_lines("image_in", "vae_img_in.proj" if d else "patch_embed.proj", layout.channels),
        *linear("clip_in", "clip_img_in" if d else "clip_img_embed"),
        *linear("text_in", "text_in" if d else "text_embed"),
        *linear("image_out", "vae_img_out" if d else "decoder_pred"),
        *linear("clip_out", "clip_img_out"),
        *linear("text_out", "text_out"),
        *(times if layout.time_mlp else ()),
        *(types if layout.data_type else ()),
        *blocks("in_blocks", f"{inside}in_blocks.{{i}}", layout, False),
        *blocks("middle", f"{inside}mid_block", layout, False),
        *blocks("out_blocks", f"{inside}out_blocks.{{i}}", layout, True),
        *norm("norm", "transformer.norm_out" if d else "norm"),
    )


def read(what: str, tensors: Mapping[str, np.ndarray], layout: Layout, expected: Params) -> Params:
    """Our tree, with the shapes of `expected`. Raises UserError as `table.read` does, and for other positions."""
    held = {name: value for name, value in tensors.items() if name not in UNUSED}
    rest = {name: value for name, value in expected.items() if name not in PARTS}
    shapes: list[Any] = [expected[name].shape for name in PARTS]
    places = held.pop(POSITIONS, None)
    want = (1, sum(shape[0] for shape in shapes), shapes[0][1])
    if places is None or places.shape != want:
        found = "none" if places is None else str(list(places.shape))
        raise UserError(f"{what}: expected {POSITIONS} of {list(want)}, found {found}.")
    params = tables.read(what, held, table(layout), rest)
    stops = np.cumsum([shape[0] for shape in shapes])[:-1]
    return params | {
        name: np.ascontiguousarray(one) for name, one in zip(PARTS, np.split(places[0], stops), strict=True)
    }


def write(params: Params, layout: Layout) -> dict[str, np.ndarray]:
    """Their arrays: the inverse of `read`, without the one that is not used."""
    rest = {name: value for name, value in params.items() if name not in PARTS}
    places = np.concatenate([np.asarray(params[name]) for name in PARTS])[None]
    return tables.write(rest, table(layout)) | {POSITIONS: places}
