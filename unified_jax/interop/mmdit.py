r"""Transformers of two streams as diffusers stores them <-> our trees: SD3Transformer2DModel, FluxTransformer2DModel.

    ours                                    diffusers
    patch, text, final                      pos_embed.proj or x_embedder, context_embedder, proj_out
    summary/time, vector_*, scalars_*       time_text_embed.timestep_embedder, text_embedder, guidance_embedder
    blocks*/modulation_image, _text         transformer_blocks.i.norm1.linear, norm1_context.linear
    blocks*/attention_image                 transformer_blocks.i.attn.to_q, to_k, to_v, to_out.0, norm_q, norm_k
    blocks*/attention_text                  transformer_blocks.i.attn.add_q_proj, ..., to_add_out, norm_added_q, ...
    blocks*/attention2_image                transformer_blocks.i.attn2
    blocks*/mlp_image, mlp_text             transformer_blocks.i.ff, ff_context
    single_blocks/modulation, fc1, out      single_transformer_blocks.i.norm.linear, proj_mlp, proj_out
    final_modulation                        norm_out.linear

A patch is [row, column, channel] here. SD3 stores its projection as a convolution, and Flux's pipelines write patches
of `side` x `side` as [channel, row, column].
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unified_jax.errors import UserError
from unified_jax.interop import table as tables
from unified_jax.interop.names import Shape, flatten
from unified_jax.interop.table import MATRIX, SAME, Form, Line, Table
from unified_jax.typing import Params


@dataclass(frozen=True)
class Patch(Form):
    """The features of a patch along one axis of ours: [row, column, channel], theirs [channel, row, column]."""

    side: int = 1
    """Patch size."""
    axis: int = 0
    """Axis of ours, a matrix or a bias, that holds them."""
    kernel: bool = False
    """Whether theirs is a convolution's kernel, of four axes."""

    def theirs(self, shape: Shape) -> Shape:
        """The shape of theirs."""
        if self.kernel:
            return (shape[1], shape[0] // self.side**2, self.side, self.side)
        return shape[::-1]

    def read(self, parts: list[np.ndarray], shape: Shape) -> np.ndarray:
        """Ours."""
        value = np.moveaxis(parts[0].reshape(shape[::-1]).T, self.axis, 0)
        value = value.reshape(-1, self.side**2, *value.shape[1:]).swapaxes(0, 1)
        return np.moveaxis(value.reshape(shape[self.axis], *value.shape[2:]), 0, self.axis)

    def write(self, ours: np.ndarray) -> list[np.ndarray]:
        """Theirs."""
        value = np.moveaxis(ours, self.axis, 0)
        value = value.reshape(self.side**2, -1, *value.shape[1:]).swapaxes(0, 1)
        value = np.moveaxis(value.reshape(ours.shape[self.axis], *value.shape[2:]), 0, self.axis)
        return [value.T.reshape(self.theirs(ours.shape))]


PLACES = {
    "text": "context_embedder",
    "final": "proj_out",
    "final_modulation/linear": "norm_out.linear",
    "modulation_image/linear": "norm1.linear",
    "modulation_text/linear": "norm1_context.linear",
    "modulation/linear": "norm.linear",
    "mlp_image/fc1": "ff.net.0.proj",
    "mlp_image/fc2": "ff.net.2",
    "mlp_text/fc1": "ff_context.net.0.proj",
    "mlp_text/fc2": "ff_context.net.2",
    "fc1": "proj_mlp",
    "out": "proj_out",
}
"""Linear layers, within a block or outside."""
EMBEDDERS = (("time", "timestep_embedder"), ("vector_", "text_embedder"), ("scalars_", "guidance_embedder"))
ATTENTION = {
    "attention": ("attn.to_{p}", "attn.norm_{p}", ""),
    "attention_image": ("attn.to_{p}", "attn.norm_{p}", "attn.to_out.0"),
    "attention2_image": ("attn2.to_{p}", "attn2.norm_{p}", "attn2.to_out.0"),
    "attention_text": ("attn.add_{p}_proj", "attn.norm_added_{p}", "attn.to_add_out"),
}
"""Projections, norms and output of each stream's attention."""
BFLOAT16 = 2.0**-8
"""More than bfloat16 changes a sine."""


def table(expected: Params, side: int, sd3: bool) -> Table:
    """The lines of a network with these parameters, or shapes; patches of `side`."""
    return tuple(_line(name, side, sd3) for name in sorted(flatten(expected)))


def read(what: str, tensors: Mapping[str, np.ndarray], expected: Params, side: int, sd3: bool) -> Params:
    """Our tree, of the shapes of `expected`. Raises UserError that lists every wrong, missing and unmapped array."""
    return tables.read(what, tensors, table(expected, side, sd3), expected)


def write(params: Params, side: int, sd3: bool) -> dict[str, np.ndarray]:
    """Their arrays, by name, without SD3's table of positions."""
    return tables.write(params, table(params, side, sd3))


def without_positions(
    what: str, tensors: Mapping[str, np.ndarray], expected: Float[np.ndarray, "n d"]
) -> dict[str, np.ndarray]:
    """The arrays of an SD3 without its table of positions, which must be the one that is computed.

    Raises UserError for a missing table or another one.
    """
    left = dict(tensors)
    found = left.pop("pos_embed.pos_embed", None)
    if found is None:
        raise UserError(f"{what} holds no pos_embed.pos_embed.")
    if found.shape != (1, *expected.shape) or float(np.abs(found[0] - expected).max()) > BFLOAT16:
        raise UserError(
            f"{what} holds a pos_embed.pos_embed of shape {list(found.shape)} that is not the sin-cos table of shape "
            f"{[1, *expected.shape]} computed here: set the network's grid and base as its configuration does."
        )
    return left


def _line(name: str, side: int, sd3: bool) -> Line:
    parts = name.split("/")
    kind = parts[-1]
    last = "bias" if kind.endswith("bias") else "weight"
    if parts[0] == "patch":
        theirs = "pos_embed.proj" if sd3 else "x_embedder"
        return Line(name, (f"{theirs}.{last}",), SAME if last == "bias" else Patch(side=side, kernel=sd3))
    if parts[0] == "final" and not sd3:
        return Line(name, (f"proj_out.{last}",), Patch(side=side, axis=0 if last == "bias" else 1))
    if parts[0] == "summary":
        place = next((theirs for ours, theirs in EMBEDDERS if parts[1].startswith(ours)), parts[1])
        module = f"time_text_embed.{place}.linear_{parts[2].removeprefix('fc')}" if len(parts) == 4 else name
        return Line(name, (f"{module}.{last}",), MATRIX if last == "weight" else SAME)
    first, block, inside = 0, "", "/".join(parts[:-1])
    if found := re.fullmatch(r"(single_)?blocks(?:_(\d+))?", parts[0]):
        first = int(found.group(2) or 0)
        block, inside = f"{found.group(1) or ''}transformer_blocks.{{i}}.", "/".join(parts[1:-1])
    if inside in ATTENTION:
        return _attention(name, block, ATTENTION[inside], kind)._replace(first=first)
    place = f"{block}{PLACES.get(inside, inside)}"
    return Line(name, (f"{place}.{last}",), MATRIX if last == "weight" else SAME, first)


def _attention(name: str, block: str, places: tuple[str, str, str], kind: str) -> Line:
    project, norm, out = places
    match kind:
        case "qkv_kernel":
            return Line(name, tuple(f"{block}{project.format(p=p)}.weight" for p in "qkv"), Form(inputs=1, joined=2))
        case "qkv_bias":
            return Line(name, tuple(f"{block}{project.format(p=p)}.bias" for p in "qkv"), Form(inputs=0, joined=1))
        case "q_scale" | "k_scale":
            return Line(name, (f"{block}{norm.format(p=kind[0])}.weight",))
        case "out_kernel":
            return Line(name, (f"{block}{out}.weight",), Form(inputs=2))
        case _:
            return Line(name, (f"{block}{out}.bias",))
