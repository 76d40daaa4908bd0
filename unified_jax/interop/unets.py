r"""U-Nets as published <-> our tree, in three layouts.

    ours                          diffusers                        CompVis, guided-diffusion
    embedding/fc1, fc2            time_embedding.linear_1, _2      time_embed.0, .2
    embedding/label_0             class_embedding                  label_emb
    embedding/added_fc1, _fc2     add_embedding.linear_1, _2       label_emb.0.0, .0.2
    down_i/residual_j             down_blocks.i.resnets.j          input_blocks.n.0
    down_i/attention_j            down_blocks.i.attentions.j       input_blocks.n.1
    down_i_change                 down_blocks.i.downsamplers.0     input_blocks.n.0
    middle/...                    mid_block                        middle_block.0, .1, .2
    up_i/residual_j               up_blocks.i.resnets.j            output_blocks.n.0
    up_i_change                   up_blocks.i.upsamplers.0         output_blocks.n.1 or .2
    norm_out, conv_out            conv_norm_out, conv_out          out.0, out.2

n counts blocks through all levels. Attention over positions is one projection to queries, keys and values here and in
guided-diffusion, whose older order puts heads first (as ours) and whose newer one puts queries, keys and values first:
the same weights permuted. The blocks of a transformer are stacked.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unified_jax.interop import table as tables
from unified_jax.interop.names import Shape, flatten
from unified_jax.interop.table import KERNEL, MATRIX, SAME, Form, Line, Table
from unified_jax.interop.unet_places import compvis_places, diffusers_places
from unified_jax.typing import Params

Names = Literal["diffusers", "compvis"]
Order = Literal["heads", "kinds"]


@dataclass(frozen=True)
class Point(Form):
    """A matrix that theirs holds as a convolution of size 1 over some axes."""

    axes: int = 0
    """Axes of length 1 at the end of theirs."""
    order: Order = "heads"
    """First axis of theirs in a joint projection: heads, or queries, keys and values."""

    def theirs(self, shape: Shape) -> Shape:
        """The shape of each of theirs."""
        return super().theirs(shape) + (1,) * self.axes

    def read(self, parts: list[np.ndarray], shape: Shape) -> np.ndarray:
        """Ours."""
        parts = [p.reshape(p.shape[: p.ndim - self.axes]) for p in parts]
        if self.order == "heads":
            return super().read(parts, shape)
        *inputs, h, three, e = shape
        return np.swapaxes(super().read(parts, (*inputs, three, h, e)), -3, -2)

    def write(self, ours: np.ndarray) -> list[np.ndarray]:
        """Theirs."""
        return super().write(ours if self.order == "heads" else np.swapaxes(ours, -3, -2))


@dataclass(frozen=True)
class Layout:
    """A published layout."""

    names: Names = "diffusers"
    """diffusers' names, or those of CompVis and guided-diffusion."""
    projection: Literal["matrix", "convolution"] = "matrix"
    """How the transformers' first and last products are stored."""
    order: Order = "heads"
    """Order in a joint projection (guided-diffusion: "kinds" is its new order)."""
    added: str = "add_embedding"
    """diffusers' module for vectors: "class_embedding" where the class is a vector."""


MODULE = re.compile(
    r"(?:(?:down|up)_\d+|middle)/(?:residual|attention)_\d+|(?:down|up)_\d+_change|embedding|tokens|conv_in|norm_out"
    r"|conv_out"
)
RESIDUAL: dict[Names, dict[str, str]] = {
    "diffusers": {"time": "time_emb_proj", "shortcut": "conv_shortcut"},
    "compvis": {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "time": "emb_layers.1", "norm2": "out_layers.0",
        "conv2": "out_layers.3", "shortcut": "skip_connection",
    },
}  # fmt: skip
BEFORE = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names that diffusers gave attention over positions before version 0.17."""


def table(expected: Params, layout: Layout) -> Table:
    """The lines of a U-Net with these parameters, or shapes."""
    names = sorted(flatten(expected))
    modules = [found.group() for name in names if (found := MODULE.match(name))]
    places = diffusers_places(modules) if layout.names == "diffusers" else compvis_places(modules)
    lines: list[Line] = []
    for name in names:
        if name.startswith("pool"):
            lines.append(_head(name, "pool_norm/gain" in names))
            continue
        found = MODULE.match(name)
        module = found.group() if found else ""
        leaf = name[len(module) + 1 :]
        lines.append(_line(name, module, leaf, places.get(module, module), layout))
    return tuple(lines)


def read(what: str, tensors: Mapping[str, np.ndarray], expected: Params, layout: Layout) -> Params:
    """Our tree, of the shapes of `expected`. Raises UserError that lists every wrong, missing and unmapped array."""
    if layout.names == "diffusers":
        tensors = {_present(name): value for name, value in tensors.items()}
    return tables.read(what, tensors, table(expected, layout), expected)


def write(params: Params, layout: Layout) -> dict[str, np.ndarray]:
    """Their arrays, by name."""
    return tables.write(params, table(params, layout))


def _present(name: str) -> str:
    """diffusers' present name of an array."""
    module, _, last = name.rpartition(".")
    head, _, part = module.rpartition(".")
    return f"{head}.{BEFORE[part]}.{last}" if part in BEFORE and re.search(r"attentions\.\d+$", head) else name


def _line(name: str, module: str, leaf: str, place: str, layout: Layout) -> Line:
    part, _, kind = leaf.rpartition("/")
    last = "bias" if kind == "bias" else "weight"
    if module == "tokens":
        theirs = "image_embeds" if part == "fc" else "norm"
        return Line(name, (f"encoder_hid_proj.{theirs}.{last}",), MATRIX if kind == "kernel" else SAME)
    if module == "embedding":
        return _embedding(name, part, last, layout)
    if "attention_" in module:
        return _attention(name, leaf, place, layout)
    form = KERNEL if kind == "kernel" else SAME
    if module.endswith("_change") and part == "conv":
        op = "op" if layout.names == "compvis" and module.startswith("down") else "conv"
        return Line(name, (f"{place}.{op}.{last}",), form)
    if not part:  # a convolution or norm of the network itself
        return Line(name, (f"{place}.{last}",), form)
    if kind == "kernel" and part in ("time", "shortcut"):
        form = MATRIX if part == "time" else Point(inputs=1, axes=2)
    return Line(name, (f"{place}.{RESIDUAL[layout.names].get(part, part)}.{last}",), form)


def _embedding(name: str, part: str, last: str, layout: Layout) -> Line:
    added = layout.added
    theirs = {
        "fc1": "time_embedding.linear_1", "fc2": "time_embedding.linear_2", "guided": "time_embedding.cond_proj",
        "label_0": "class_embedding", "added_fc1": f"{added}.linear_1", "added_fc2": f"{added}.linear_2",
        "added_fc": added, "added_norm": "add_embedding.image_norm",
    }  # fmt: skip
    if layout.names == "compvis":
        theirs = {
            "fc1": "time_embed.0",
            "fc2": "time_embed.2",
            "label_0": "label_emb",
            "guided": "time_embed.cond_proj",
        }
        theirs |= {"added_fc1": "label_emb.0.0", "added_fc2": "label_emb.0.2", "added_fc": "label_emb"}
    form = MATRIX if name.endswith("/kernel") else SAME
    return Line(name, (f"{theirs.get(part, part)}.{last}",), form)


def _attention(name: str, leaf: str, place: str, layout: Layout) -> Line:
    diffusers = layout.names == "diffusers"
    if leaf.startswith("blocks/"):
        return _block(name, leaf.removeprefix("blocks/"), f"{place}.transformer_blocks.{{i}}")
    part, _, kind = leaf.rpartition("/")
    weight = "weight" if kind.endswith(("kernel", "gain")) else "bias"
    if part in ("proj_in", "proj_out"):
        matrix = Point(inputs=1, axes=2) if layout.projection == "convolution" else MATRIX
        return Line(name, (f"{place}.{part}.{weight}",), matrix if kind == "kernel" else SAME)
    if part:
        return Line(name, (f"{place}.{part if diffusers else 'norm'}.{weight}",))
    axes = 1 if weight == "weight" and not diffusers else 0
    if kind.startswith("out"):
        form = Point(inputs=2, axes=axes) if weight == "weight" else SAME
        return Line(name, (f"{place}.{'to_out.0' if diffusers else 'proj_out'}.{weight}",), form)
    inputs = 1 if weight == "weight" else 0
    if kind.startswith("tokens"):
        return Line(name, tuple(f"{place}.add_{p}_proj.{weight}" for p in "kv"), Form(inputs, joined=inputs + 1))
    if diffusers:
        return Line(name, tuple(f"{place}.to_{p}.{weight}" for p in "qkv"), Form(inputs, joined=inputs + 1))
    return Line(name, (f"{place}.qkv.{weight}",), Point(inputs, axes=axes, order=layout.order))


HEADS: dict[str, tuple[str, Form]] = {
    "pool/positions": ("out.2.positional_embedding", MATRIX),
    "pool/qkv_kernel": ("out.2.qkv_proj.weight", Point(inputs=1, axes=1, order="kinds")),
    "pool/qkv_bias": ("out.2.qkv_proj.bias", Point(inputs=0, order="kinds")),
    "pool/out/kernel": ("out.2.c_proj.weight", Point(inputs=1, axes=1)),
    "pool/out/bias": ("out.2.c_proj.bias", SAME),
    "pool_fc/kernel": ("out.3.weight", Point(inputs=1, axes=2)),
    "pool_fc/bias": ("out.3.bias", SAME),
    "pool_fc1/kernel": ("out.0.weight", MATRIX),
    "pool_fc1/bias": ("out.0.bias", SAME),
    "pool_norm/gain": ("out.1.weight", SAME),
    "pool_norm/bias": ("out.1.bias", SAME),
}
"""The head of guided-diffusion's classifier; the last matrix of a spatial head stands behind its norm."""


def _head(name: str, normed: bool) -> Line:
    if name.startswith("pool_fc2"):
        place, kernel = "out.3" if normed else "out.2", name.endswith("kernel")
        return Line(name, (f"{place}.{'weight' if kernel else 'bias'}",), MATRIX if kernel else SAME)
    theirs, form = HEADS[name]
    return Line(name, (theirs,), form)


def _block(name: str, leaf: str, place: str) -> Line:
    """A line of a transformer's stacked blocks, of one name in all layouts."""
    module, _, kind = leaf.rpartition("/")
    attention, number = module.split("/")[0], 1 if module.startswith("attn1") else 2
    weight = "weight" if kind.endswith(("kernel", "gain")) else "bias"
    if attention.startswith("attn"):
        if "norm" in leaf:
            return Line(name, (f"{place}.norm{number}.{weight}",))
        if kind.startswith("out"):
            form = Form(inputs=2) if weight == "weight" else SAME
            return Line(name, (f"{place}.{attention}.to_out.0.{weight}",), form)
        letters, joined = {"qkv_kernel": ("qkv", 2), "kv_kernel": ("kv", 2), "q_kernel": ("q", None)}[kind]
        return Line(name, tuple(f"{place}.{attention}.to_{p}.weight" for p in letters), Form(inputs=1, joined=joined))
    if module == "mlp_norm":
        return Line(name, (f"{place}.norm3.{weight}",))
    theirs = "ff.net.0.proj" if module == "mlp" else "ff.net.2"
    form = MATRIX if weight == "weight" else Form(inputs=0)
    return Line(name, (f"{place}.{theirs}.{weight}",), form)
