r"""DC-AE's weights as diffusers stores them (AutoencoderDC) <-> our tree.

ours                                 theirs
encoder/level_i_block_j              encoder.down_blocks.i.j
encoder/level_i_down                 encoder.down_blocks.i.(number of blocks)
decoder/level_i_up, level_i_block_j  decoder.up_blocks.i.0, decoder.up_blocks.i.(j + 1)
attention/qkv_kernel                 attn.to_q, to_k, to_v, joined
attention/{depthwise,mixing}_s       attn.to_qkv_multiscale.s.{proj_in,proj_out}
attention/out, norm                  attn.to_out, attn.norm_out
mlp/{expand,depthwise,contract}      conv_out.{conv_inverted,conv_depth,conv_point}
conv1, conv2, norm                   the same; mean and variance are running_mean and running_var
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from unified_jax.errors import UserError
from unified_jax.interop import table
from unified_jax.interop.autoencoders.levels import POINT
from unified_jax.interop.names import flatten
from unified_jax.interop.table import KERNEL, MATRIX, SAME, Form, Line, Table
from unified_jax.typing import Params

OPTIONS: dict[str, Any] = {
    "in_channels": 3, "latent_channels": 32, "attention_head_dim": 32, "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock", "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024), "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3), "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)), "upsample_block_type": "pixel_shuffle",
    "downsample_block_type": "pixel_unshuffle", "decoder_norm_types": "rms_norm", "decoder_act_fns": "silu",
    "encoder_out_shortcut": True, "decoder_in_shortcut": True, "decoder_conv_act_fn": "relu", "scaling_factor": 1.0,
}  # fmt: skip
"""Options of AutoencoderDC with their defaults."""
KINDS = {"ResBlock": "res", "EfficientViTBlock": "vit"}
NORMS = {"rms_norm": "rms", "batch_norm": "batch", "layer_norm": "layer"}
ACTIVATIONS = {"silu": "silu", "swish": "silu", "relu": "relu"}
DOWN = {"pixel_unshuffle": True, "conv": False}
UP = {"pixel_shuffle": True, "interpolate": False}

ATTENTION = {"out": "to_out", "norm": "norm_out"}
MLP = {"expand": "conv_inverted", "depthwise": "conv_depth", "contract": "conv_point"}
LAST = {"kernel": "weight", "gain": "weight", "mean": "running_mean", "variance": "running_var"}
UNUSED = ".num_batches_tracked"
"""Counters of batch norms."""
QKV = ("to_q", "to_k", "to_v")


AUTHORS = {
    "encoder.stages": "encoder.down_blocks", "decoder.stages": "decoder.up_blocks", "context_module": "attn",
    "local_module": "conv_out", "depth_conv.conv": "conv_depth", "inverted_conv.conv": "conv_inverted",
    "point_conv.conv": "conv_point", "point_conv.norm": "norm", "proj.norm": "norm_out", "proj.conv": "to_out",
    "conv1.conv": "conv1", "conv2.conv": "conv2", "conv2.norm": "norm", "conv.conv": "conv",
    "encoder.project_out.0.conv": "encoder.conv_out", "decoder.project_in.conv": "decoder.conv_in",
    "decoder.project_out.0": "decoder.norm_out",
}  # fmt: skip
"""Names of the authors' modules and of diffusers', replaced in this order."""


class SideSettings(NamedTuple):
    """Fields of `networks.autoencoders.dc.Side`."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kinds: tuple[Any, ...]
    scales: tuple[tuple[int, ...], ...]
    norms: tuple[Any, ...]
    activations: tuple[Any, ...]


class DcSettings(NamedTuple):
    """Fields of `networks.autoencoders.dc.DcAutoencoder`; the sides as `SideSettings`."""

    channels: int
    latents: int
    encoder_sizes: SideSettings
    decoder_sizes: SideSettings
    head_dim: int
    unshuffle: bool
    shuffle: bool
    out_shortcut: bool
    in_shortcut: bool
    out_activation: Any


def settings(what: str, c: Mapping[str, Any]) -> DcSettings:
    """The sizes from all options of AutoencoderDC. Raises UserError for a value that is not supported, by name."""

    def one(name: str, value: Any, kinds: Mapping[str, Any]) -> Any:
        if value not in kinds:
            raise UserError(f"{what}: {name} is {value!r}; expected {' or '.join(kinds)}.")
        return kinds[value]

    def every(name: str, kinds: Mapping[str, Any], count: int) -> tuple[Any, ...]:
        given = (c[name],) * count if isinstance(c[name], str) else c[name]
        return tuple(one(name, value, kinds) for value in given)

    def side(name: str) -> SideSettings:
        widths = tuple(c[f"{name}_block_out_channels"])
        n, decoder = len(widths), name == "decoder"
        return SideSettings(
            widths,
            tuple(c[f"{name}_layers_per_block"]),
            every(f"{name}_block_types", KINDS, n),
            tuple(tuple(scales) for scales in c[f"{name}_qkv_multiscales"]),
            every("decoder_norm_types", NORMS, n) if decoder else ("rms",) * n,
            every("decoder_act_fns", ACTIVATIONS, n) if decoder else ("silu",) * n,
        )

    return DcSettings(
        c["in_channels"], c["latent_channels"], side("encoder"), side("decoder"), c["attention_head_dim"],
        one("downsample_block_type", c["downsample_block_type"], DOWN),
        one("upsample_block_type", c["upsample_block_type"], UP), c["encoder_out_shortcut"], c["decoder_in_shortcut"],
        one("decoder_conv_act_fn", c["decoder_conv_act_fn"], ACTIVATIONS),
    )  # fmt: skip


def lines(expected: Params) -> Table:
    """The table of a tree of these shapes."""
    flat = flatten(expected)
    up = {name.split("/")[1] for name in flat if re.match(r"decoder/level_\d+_up/", name)}
    depths: dict[str, int] = {}
    for name in flat:
        if m := re.match(r"encoder/(level_\d+)_block_(\d+)/", name):
            depths[m[1]] = max(depths.get(m[1], 0), int(m[2]) + 1)
    found = []
    for name, leaf in flat.items():
        side, module, *inner = name.split("/")
        path = _path(side, module, depths, up)
        if inner[-1] == "qkv_kernel":
            names = tuple(f"{path}.attn.{part}.weight" for part in QKV)
            found.append(Line(name, names, Form(inputs=1, joined=1)))
            continue
        parts, last = [path, *_inner(inner[:-1])], inner[-1]
        form = SAME
        if last == "kernel":
            form = KERNEL if len(leaf.shape) == 4 else MATRIX if inner[0] == "attention" else POINT
        found.append(Line(name, (f"{'.'.join(parts)}.{LAST.get(last, last)}",), form))
    return tuple(found)


def _path(side: str, module: str, depths: Mapping[str, int], up: set[str]) -> str:
    """The name of a block or of a way between levels."""
    m = re.fullmatch(r"(level_(\d+))_(block_(\d+)|down|up)", module)
    if not m:
        return f"{side}.{module}"
    if side == "encoder":
        return f"encoder.down_blocks.{m[2]}.{depths[m[1]] if m[4] is None else m[4]}"
    return f"decoder.up_blocks.{m[2]}.{0 if m[4] is None else int(m[4]) + (f'{m[1]}_up' in up)}"


def _inner(parts: list[str]) -> list[str]:
    """Names of modules within a block."""
    if not parts or parts[0] not in ("attention", "mlp"):
        return parts
    inside = parts[1]
    if parts[0] == "mlp":
        return ["conv_out", MLP.get(inside, inside)]
    stem, _, number = inside.rpartition("_")
    if stem in ("depthwise", "mixing"):
        return ["attn", "to_qkv_multiscale", number, "proj_in" if stem == "depthwise" else "proj_out"]
    return ["attn", ATTENTION.get(inside, inside)]


def own(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays by diffusers' names. Raises UserError for a joined projection that cannot be cut into three."""
    if not any(name.startswith("encoder.stages.") for name in tensors):
        return dict(tensors)
    down = {
        side: f"{side}.conv.conv.weight" in tensors for side in ("encoder.project_in", "decoder.project_out.op_list.2")
    }
    found: dict[str, Any] = {}
    for old, value in tensors.items():
        name = old.replace("main.", "").replace("op_list.", "")
        for theirs, ours in AUTHORS.items():
            name = re.sub(rf"(?<![^.]){re.escape(theirs)}(?=\.)", ours, name)
        name = re.sub(
            r"aggreg\.(\d+)\.([01])\.", lambda m: f"to_qkv_multiscale.{m[1]}.proj_{('in', 'out')[int(m[2])]}.", name
        )
        for theirs, ours, level in (
            ("encoder.project_in.conv.", "encoder.conv_in.", down["encoder.project_in"]),
            ("decoder.project_out.2.conv.", "decoder.conv_out.", down["decoder.project_out.op_list.2"]),
        ):
            name = name.replace(theirs, f"{ours}conv." if level else ours)
        if name.endswith(".to_out.weight"):
            value = value.reshape(value.shape[:2])
        if not name.endswith(".qkv.conv.weight"):
            found[name] = value
            continue
        if len(value) % 3:
            raise UserError(f"{old} has {len(value)} outputs; expected queries, keys and values, as many of each.")
        parts = np.split(value.reshape(value.shape[:2]), 3)
        found |= {name.replace("qkv.conv", part): one for part, one in zip(QKV, parts, strict=True)}
    return found


def read(what: str, tensors: Mapping[str, np.ndarray], expected: Params) -> Params:
    """Our tree of these shapes. Raises UserError that lists what is unmapped, missing or of another shape."""
    kept = own({name: value for name, value in tensors.items() if not name.endswith(UNUSED)})
    return table.read(what, kept, lines(expected), expected)


def write(params: Params) -> dict[str, np.ndarray]:
    """Their arrays."""
    return table.write(params, lines(params))
