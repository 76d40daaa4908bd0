r"""Weights of convolutional autoencoders (KL and VQ) <-> our tree, in two layouts.

    ours                            diffusers                                original (latent diffusion, taming)
    encoder/level_i/block_j         encoder.down_blocks.i.resnets.j          encoder.down.i.block.j
    encoder/level_i/attention_j     encoder.down_blocks.i.attentions.j       encoder.down.i.attn.j
    encoder/level_i/resample        encoder.down_blocks.i.downsamplers.0     encoder.down.i.downsample
    decoder/level_i/...             decoder.up_blocks.i, upsamplers.0        decoder.up.(n - 1 - i), upsample
    middle/{block_0,attention_0}    mid_block.{resnets.0,attentions.0}       mid.{block_1,attn_1}
    shortcut, norm_out              conv_shortcut, conv_norm_out             nin_shortcut, norm_out
    attention: norm, q, k, v, out   group_norm, to_q, .., to_out.0           norm, q, k, v, proj_out
    table                           quantize.embedding.weight                the same

Older files of diffusers call the projections query, key, value, proj_attn. The original layout is also that of SD3's
and Flux' own files and of VA-VAE. A checkpoint of training holds it beside other parts, or under first_stage_model.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from unified_jax.errors import UserError
from unified_jax.interop import table
from unified_jax.interop.names import Shape, flatten, shapes
from unified_jax.interop.table import KERNEL, MATRIX, SAME, Form, Line, Table
from unified_jax.typing import Params

Layout = Literal["diffusers", "original"]
STAGE = "first_stage_model."
BESIDE = ("loss.", "foundation_model.", "linear_proj.", "model_ema.", "discriminator.")
"""Parts of a training checkpoint that an autoencoder does not need."""
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of projections in older files of diffusers."""

DIFFUSERS = {
    "middle": "mid_block", "block": "resnets", "attention": "attentions", "shortcut": "conv_shortcut",
    "norm_out": "conv_norm_out", "q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0",
}  # fmt: skip
ORIGINAL = {"middle": "mid", "attention": "attn", "shortcut": "nin_shortcut", "out": "proj_out"}
LAST = {"kernel": "weight", "gain": "weight", "table": "weight"}


class Point(Form):
    """A 1 x 1 convolution: ours [in, out], theirs [out, in, 1, 1]."""

    def theirs(self, shape: Shape) -> Shape:
        """The shape of theirs."""
        return (shape[1], shape[0], 1, 1)

    def read(self, parts: list[np.ndarray], shape: Shape) -> np.ndarray:
        """Ours."""
        return parts[0].reshape(shape[::-1]).T

    def write(self, ours: np.ndarray) -> list[np.ndarray]:
        """Theirs."""
        return [ours.T[..., None, None]]


POINT = Point()


def _diffusers(parts: list[str]) -> list[str]:
    """Names of a layer's modules from our path."""
    side = parts[0] if parts[0] in ("encoder", "decoder") else ""
    found = []
    for i, part in enumerate(parts):
        stem, _, number = part.rpartition("_")
        if stem == "level":
            found += ["down_blocks" if side == "encoder" else "up_blocks", number]
        elif stem in ("block", "attention"):
            found += [DIFFUSERS[stem], number]
        elif part == "resample":
            found += ["downsamplers.0.conv" if side == "encoder" else "upsamplers.0.conv"]
        elif part == "norm" and parts[i - 1].startswith("attention"):
            found += ["group_norm" if i + 1 == len(parts) else "spatial_norm"]
        else:
            found += [_coded(parts, i) or DIFFUSERS.get(part, part)]
    return found


def _original(parts: list[str], levels: int) -> list[str]:
    side = parts[0] if parts[0] in ("encoder", "decoder") else ""
    found = []
    for i, part in enumerate(parts):
        stem, _, number = part.rpartition("_")
        if stem == "level":
            found += ["down", number] if side == "encoder" else ["up", str(levels - 1 - int(number))]
        elif stem in ("block", "attention") and parts[i - 1] == "middle":
            found += [f"{ORIGINAL.get(stem, stem)}_{int(number) + 1}"]
        elif stem in ("block", "attention"):
            found += [ORIGINAL.get(stem, stem), number]
        elif part == "resample":
            found += ["downsample.conv" if side == "encoder" else "upsample.conv"]
        else:
            found += [_coded(parts, i) or ORIGINAL.get(part, part)]
    return found


def _coded(parts: list[str], i: int) -> str:
    """A part of a norm that the code modulates; "" for others."""
    inside = i > 0 and parts[i - 1].startswith("norm")
    return {"norm": "norm_layer", "scale": "conv_y", "shift": "conv_b"}.get(parts[i], "") if inside else ""


def lines(expected: Params, layout: Layout) -> Table:
    """The table of a tree of these shapes."""
    flat = flatten(expected)
    levels = len({name.split("/")[1] for name in flat if name.startswith("decoder/level_")})
    found = []
    for name, leaf in flat.items():
        *parts, last = name.split("/")
        if name == "table":
            found.append(Line(name, ("quantize.embedding.weight",)))
            continue
        theirs = ".".join(_diffusers(parts) if layout == "diffusers" else _original(parts, levels))
        form = SAME
        if last == "kernel":
            linear = layout == "diffusers" and len(parts) > 1 and parts[-2].startswith("attention")
            form = KERNEL if len(leaf.shape) == 4 else MATRIX if linear else POINT
        found.append(Line(name, (f"{theirs}.{LAST.get(last, last)}",), form))
    return tuple(found)


def kept(names: Iterable[str]) -> list[str]:
    """The names that belong to the autoencoder: those of a first stage, if there is one, without its losses."""
    every = list(names)
    inner = [name for name in every if name.startswith(STAGE)]
    return [name for name in inner or every if not name.removeprefix(STAGE).startswith(BESIDE)]


def own(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The autoencoder's arrays by their names in a file of its own."""

    def name_of(name: str) -> str:
        name = name.removeprefix(STAGE)
        return re.sub(r"\.(query|key|value|proj_attn)\.(?=weight$|bias$)", lambda m: f".{OLD[m[1]]}.", name)

    return {name_of(name): tensors[name] for name in kept(tensors)}


def layout_of(what: str, tensors: Mapping[str, Any]) -> Layout:
    """Which layout these arrays, as `own` gives them, have. Raises UserError for neither."""
    if any(name.startswith(("encoder.down_blocks.", "decoder.up_blocks.")) for name in tensors):
        return "diffusers"
    if any(name.startswith(("encoder.down.", "decoder.up.")) for name in tensors):
        return "original"
    raise UserError(
        f"{what} holds no autoencoder of a known layout: expected names such as encoder.down_blocks.0.* (diffusers) "
        "or encoder.down.0.* (latent diffusion)."
    )


def read(what: str, tensors: Mapping[str, np.ndarray], expected: Params) -> Params:
    """Our tree of these shapes. Raises UserError that lists what is unmapped, missing or of another shape."""
    named = own(tensors)
    return table.read(what, named, lines(expected, layout_of(what, named)), expected)


def write(params: Params, layout: Layout = "diffusers") -> dict[str, np.ndarray]:
    """Their arrays."""
    return table.write(params, lines(params, layout))


def measured(what: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Settings, as `settings.levels` gives them, of a file without any, from its shapes; 32 groups.

    Raises UserError for a file that holds no autoencoder.
    """
    theirs = shapes(own(tensors))
    diffusers = layout_of(what, theirs) == "diffusers"
    down, block, attn = ("down_blocks", "resnets", "attentions") if diffusers else ("down", "block", "attn")
    up = "up_blocks" if diffusers else "up"
    count = 1 + max(int(m[1]) for n in theirs if (m := re.match(rf"encoder\.{down}\.(\d+)\.", n)))
    named = [f"encoder.{down}.{i}.{block}" for i in range(count)]
    try:
        widths = [theirs[f"{name}.0.conv1.weight"][0] for name in named]
        middle = theirs["decoder.conv_in.weight"], theirs["encoder.conv_in.weight"], theirs["decoder.conv_out.weight"]
    except KeyError as error:
        raise UserError(f"{what} lacks {error.args[0]}, from which its sizes are read.") from None
    attends = [any(n.startswith(f"encoder.{down}.{i}.{attn}.") for n in theirs) for i in range(count)]
    back = [any(n.startswith(f"decoder.{up}.{i}.{attn}.") for n in theirs) for i in range(count)]
    blocks = len([n for n in theirs if n.startswith(f"{named[0]}.") and n.endswith(".conv1.weight")])
    center = "encoder.mid_block.attentions." if diffusers else "encoder.mid.attn_"
    return {
        "in_channels": middle[1][1], "out_channels": middle[2][0], "latent_channels": middle[0][1],
        "block_out_channels": widths, "layers_per_block": blocks, "norm_num_groups": 32,
        "encoder_attention": attends, "decoder_attention": back[::-1] if diffusers else back,
        "mid_block_add_attention": any(n.startswith(center) for n in theirs),
        "use_quant_conv": "quant_conv.weight" in theirs, "use_post_quant_conv": "post_quant_conv.weight" in theirs,
        "coded": any(".conv_y." in n for n in theirs),
        "table": theirs.get("quantize.embedding.weight"),
    }  # fmt: skip
