r"""LightningDiT as published (hustvl/LightningDiT, commit 2725fed) <-> our tree of `networks.dit.DiT`.

    theirs                                  ours
    x_embedder.proj                         patch                           a convolution as a matrix
    t_embedder.mlp.{0,2}                    time/fc{1,2}
    y_embedder.embedding_table.weight       label_0/table
    blocks.i.norm{1,2}                      blocks/attention/norm_gain, blocks/norm     with RMSNorm
    blocks.i.attn.{qkv,proj}                blocks/attention/{qkv,out}_*    by head
    blocks.i.attn.{q,k}_norm                blocks/attention/{q,k}_scale    with QK-norm
    blocks.i.mlp.{w12,w3}                   blocks/mlp/fc{1,2}              SwiGLU: both halves in one array
    blocks.i.mlp.{fc1,fc2}                  blocks/mlp/fc{1,2}              GELU
    blocks.i.adaLN_modulation.1             blocks/modulation/linear        six chunks, or four without shift
    final_layer.norm_final                  final_norm                      with RMSNorm
    final_layer.adaLN_modulation.1          final_modulation/linear
    final_layer.linear                      final
    pos_embed, feat_rope.freqs_{cos,sin}    none: computed                  checked, written on export

Sizes and options are read from names and shapes. A table of rotations names the heads; without one, the width does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unified_jax.errors import UserError
from unified_jax.interop import dit_sizes, table as tables
from unified_jax.interop.dit import TOLERANCE, position_table
from unified_jax.interop.dit_sizes import Sizes
from unified_jax.interop.encoder_lines import Fused, patch_lines
from unified_jax.interop.names import account, shapes
from unified_jax.interop.table import BIAS, MATRIX, Form, Line, Table, linear
from unified_jax.typing import Params

HEADS = dit_sizes.PUBLISHED_HEADS | {1536: 24, 1792: 28}
"""Heads by width of the published models."""
ROTATIONS = ("feat_rope.freqs_cos", "feat_rope.freqs_sin")


@dataclass(frozen=True)
class Layout:
    """What a published model has."""

    sizes: Sizes
    """Sizes; `hidden` is the number of rows of the MLP's first matrix."""
    norm: Literal["layer", "rms"]
    mlp: Literal["gelu", "swiglu"]
    qk_norm: bool
    rotary: bool
    shift: bool

    def fields(self) -> dict[str, Any]:
        """Those of `DiT` with these sizes and options."""
        s = self.sizes
        hidden = s.hidden // 2 if self.mlp == "swiglu" else s.hidden
        ratio = self._ratio(hidden)
        found: dict[str, Any] = {"depth": s.depth, "width": s.width, "heads": s.heads, "mlp_ratio": ratio}
        options = {"norm": self.norm, "mlp": self.mlp, "qk_norm": self.qk_norm, "rotary": self.rotary}
        return found | options | {"shift": self.shift}

    def constructor(self) -> dict[str, Any]:
        """Arguments of the published class."""
        flags = {"use_qknorm": self.qk_norm, "use_swiglu": self.mlp == "swiglu", "use_rope": self.rotary}
        flags |= {"use_rmsnorm": self.norm == "rms", "wo_shift": not self.shift}
        return self.sizes.constructor() | {"mlp_ratio": self.fields()["mlp_ratio"]} | flags

    def _ratio(self, hidden: int) -> float:
        """A ratio of MLP to width that gives these hidden features. Raises UserError if there is none."""
        if self.mlp == "gelu":
            return self.sizes.ratio()
        for whole in range(3 * hidden // 2, 3 * hidden // 2 + 3):
            ratio = whole / self.sizes.width
            if int(2 / 3 * int(self.sizes.width * ratio)) == hidden:
                return ratio
        raise UserError(f"A SwiGLU of {hidden} features is no two thirds of a multiple of {self.sizes.width}.")


def measure(tensors: Mapping[str, np.ndarray], what: str, heads: int | None = None) -> Layout:
    """The sizes and options of a state dict. Raises UserError for one that does not hold together."""
    found = shapes(tensors)
    swiglu = "blocks.0.mlp.w12.weight" in found
    measured = {
        "patch": ("x_embedder.proj.weight", ("width", "channels", "patch", "patch")),
        "final": ("final_layer.linear.weight", ("patch * patch * outputs", "width")),
        "table": ("y_embedder.embedding_table.weight", ("rows", "width")),
        "hidden": (f"blocks.0.mlp.{'w12' if swiglu else 'fc1'}.weight", ("hidden", "width")),
        "positions": ("pos_embed", ("1", "patches", "width")),
        "modulation": ("blocks.0.adaLN_modulation.1.weight", ("chunks * width", "width")),
    }
    depth = dit_sizes.depth_of(found, "blocks")
    sizes = dit_sizes.measure(what, found, measured, depth, lambda _: tuple(found))
    rotary = bool(set(ROTATIONS) & set(found))
    if heads is None and rotary and len(found.get(ROTATIONS[0], ())) == 2:
        heads = sizes.width // max(1, found[ROTATIONS[0]][1])
    heads = dit_sizes.heads_of(sizes.width, HEADS.get(sizes.width) if heads is None else heads)
    return Layout(
        Sizes(**(vars(sizes) | {"heads": heads})),
        "rms" if "blocks.0.norm1.weight" in found else "layer",
        "swiglu" if swiglu else "gelu",
        "blocks.0.attn.q_norm.weight" in found,
        rotary,
        found["blocks.0.adaLN_modulation.1.weight"][0] != 4 * sizes.width,
    )


def table(layout: Layout) -> Table:
    """The lines of a model with these options."""
    layer, attention = "blocks.{i}", "blocks/attention"
    first, second = ("w12", "w3") if layout.mlp == "swiglu" else ("fc1", "fc2")
    gains = (
        Line(f"{attention}/norm_gain", (f"{layer}.norm1.weight",)),
        Line("blocks/norm/gain", (f"{layer}.norm2.weight",)),
        Line("final_norm/gain", ("final_layer.norm_final.weight",)),
    )
    scales = (
        Line(f"{attention}/q_scale", (f"{layer}.attn.q_norm.weight",)),
        Line(f"{attention}/k_scale", (f"{layer}.attn.k_norm.weight",)),
    )
    return (
        *patch_lines("patch", "x_embedder.proj", layout.sizes.channels),
        *linear("time/fc1", "t_embedder.mlp.0"),
        *linear("time/fc2", "t_embedder.mlp.2"),
        Line("label_0/table", ("y_embedder.embedding_table.weight",)),
        *(gains if layout.norm == "rms" else ()),
        *(scales if layout.qk_norm else ()),
        Line(f"{attention}/qkv_kernel", (f"{layer}.attn.qkv.weight",), Fused()),
        Line(f"{attention}/qkv_bias", (f"{layer}.attn.qkv.bias",), Fused()),
        Line(f"{attention}/out_kernel", (f"{layer}.attn.proj.weight",), Form(inputs=2)),
        Line(f"{attention}/out_bias", (f"{layer}.attn.proj.bias",), BIAS),
        Line("blocks/mlp/fc1/kernel", (f"{layer}.mlp.{first}.weight",), MATRIX),
        Line("blocks/mlp/fc1/bias", (f"{layer}.mlp.{first}.bias",), BIAS),
        *linear("blocks/mlp/fc2", f"{layer}.mlp.{second}"),
        *linear("blocks/modulation/linear", f"{layer}.adaLN_modulation.1"),
        *linear("final_modulation/linear", "final_layer.adaLN_modulation.1"),
        *linear("final", "final_layer.linear"),
    )


def read(what: str, tensors: Mapping[str, np.ndarray], layout: Layout, expected: Params) -> Params:
    """Our tree, with the shapes of `expected`.

    Raises UserError: unmapped, missing or wrongly shaped arrays (all of them), or positions that are not those which
    are computed here.
    """
    lines, fixed = table(layout), constants(layout)
    account(what, shapes(tensors), tables.theirs(lines, expected) | shapes(fixed))
    for name, value in fixed.items():
        error = float(np.abs(tensors[name] - value).max())
        if not error <= TOLERANCE:
            raise UserError(
                f"{what}: {name} differs from the table that is computed here by up to {error:.2g}: it was trained, or "
                "is another table, and cannot be represented."
            )
    return tables.read(what, {name: value for name, value in tensors.items() if name not in fixed}, lines, expected)


def write(params: Params, layout: Layout) -> dict[str, np.ndarray]:
    """The published state dict of our tree: the inverse of `read`."""
    return tables.write(params, table(layout)) | constants(layout)


def constants(layout: Layout) -> dict[str, np.ndarray]:
    """The arrays of positions, which are computed."""
    width, side, heads = layout.sizes.width, layout.sizes.side, layout.sizes.heads
    found = {"pos_embed": position_table(width, side)[None]}
    if not layout.rotary:
        return found
    half = width // heads // 2
    angles = np.arange(side)[:, None] * 10000.0 ** (-np.arange(half // 2) * 2.0 / half)
    angles = np.repeat(angles, 2, axis=1)
    both = np.concatenate([np.repeat(angles, side, axis=0), np.tile(angles, (side, 1))], axis=1)
    return found | {name: f(both).astype(np.float32) for name, f in zip(ROTATIONS, (np.cos, np.sin), strict=True)}
