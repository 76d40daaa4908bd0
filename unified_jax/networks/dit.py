r"""DiT (Peebles & Xie 2022, "Scalable Diffusion Models with Transformers"), with its four ways of conditioning.

    c   = time(t) + sum_i label_i(y_i),      tokens of the condition: [time(t), label_1(y_1), ...]
    x   = patches W + b + sincos(positions)

    adaln_zero  x += gate1 * Attention(LN(x) (1 + scale1) + shift1)     shift, scale, gate of both branches =
                x += gate2 * MLP(LN(x) (1 + scale2) + shift2)           Linear(SiLU(c)), zero-initialised:
                                                                        every block starts as the identity
    adaln       the same without gates
    cross       LN with gains; after self-attention every token attends to the tokens of the condition
    in_context  LN with gains; the tokens of the condition join the sequence and are dropped at the end

With adaLN the network also reads vectors, which are added to c after an MLP of their own, and tokens of any width and
length, to which every block cross-attends between its two branches (PixArt, Chen et al. 2023; an affine norm before,
a zero-initialised projection after).

    out = Linear(LN(x) (1 + scale) + shift)                             zero-initialised too; LN with gains in the last
                                                                        two

Several labels are supported (the paper has one, the class); each has its own table, whose last row is the null class.
With `grid`, an image of other sizes has the positions i m / n, for m places of the grid and n of its own: new positions
lie between known ones (docs/conditioning.md). With adaLN it takes packed rows (`layout`; Dehghani et al. 2023, "Patch
n' Pack"): each token has the modulation and the positions of its item, and attends to its item alone.
`norm`, `mlp`, `rotary` and `shift` are LightningDiT's options (`networks.lightningdit`). The blocks are one block
scanned over a leading `layers` axis of its parameters, rematerialised by a named policy.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.kernels.inputs import Modulation, Rotary
from unified_jax.layers.conditions import VectorEmbedding, filled, weighted
from unified_jax.layers.embeddings import (
    LabelEmbedding,
    TimeEmbedding,
    axial_rotations,
    sincos_positions,
    token_rotations,
)
from unified_jax.layers.form import ConditionInput, Kind, Layout, NoisyInput, only_stream
from unified_jax.layers.init import zeros
from unified_jax.layers.mlp import Dense
from unified_jax.layers.modulation import ModulationRows
from unified_jax.layers.packed import each_item, item_rows, memory_of, places_of
from unified_jax.layers.remat import Remat, rematerialised
from unified_jax.networks.dit_block import Block, Conditioning, modulated
from unified_jax.sharding import constrain

SIZES: dict[str, tuple[int, int, int]] = {
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
"""(depth, width, heads) of the published models."""


class DiT(nn.Module):
    """A diffusion transformer over one sequence of tokens."""

    depth: int = 12
    """Number of blocks."""
    width: int = 384
    """Features of the residual stream."""
    heads: int = 6
    """Attention heads; must divide width."""
    mlp_ratio: float = 4.0
    """Hidden features of the MLP, as a multiple of width."""
    conditioning: Conditioning = "adaln_zero"
    """How time and labels enter: 'adaln_zero', 'adaln', 'cross' or 'in_context'."""
    qk_norm: bool = False
    """RMS norm of queries and keys."""
    norm: Literal["layer", "rms"] = "layer"
    """Norm before the branches and the output: LayerNorm, or RMSNorm with a gain."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """MLP: GELU, or SwiGLU with two thirds of the hidden features, twice."""
    rotary: bool = False
    """Turn queries and keys by their positions, besides the fixed embedding; each axis has its share of a head."""
    shift: bool = True
    """Whether the modulation of the blocks shifts; that of the output does."""
    grid: tuple[int, ...] = ()
    """Rows and columns of the grid to whose positions those of other images are scaled; empty: they are counted."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, norms, softmax and modulation stay float32."""
    label_std: float = 0.02
    """Initial standard deviation of the label tables; the paper's 0.02 learns a few labels slowly."""
    frequency_shift: float = 0.0
    """Time frequencies are 10000^(-i / (128 - frequency_shift)); diffusers' models have 1."""
    attention: Attention = "auto"
    """Implementation of attention."""
    remat: Remat = "dots"
    """Rematerialisation: what the backward pass keeps of a block (`layers.remat`)."""
    unroll: int = 1
    """Blocks per step of the scan; more compile longer and may run faster."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"DiT.width {self.width} is not divisible by its {self.heads} heads.")
        if self.width % 4:
            raise ValueError(f"DiT.width {self.width} must be divisible by 4 (sin-cos positions of two axes).")
        if self.depth < 1:
            raise ValueError(f"DiT.depth must be at least 1, found {self.depth}.")
        if self.unroll < 1:
            raise ValueError(f"DiT.unroll must be at least 1, found {self.unroll}.")
        if self.rotary and (self.conditioning == "in_context" or self.width // self.heads % 2):
            raise ValueError("DiT.rotary takes heads of an even width, and no conditioning 'in_context'.")
        if not self.shift and self.conditioning in ("cross", "in_context"):
            raise ValueError(f"DiT.shift is of a modulation, and the conditioning {self.conditioning!r} has none.")
        if self.grid and (len(self.grid) != 2 or min(self.grid) < 1):
            raise ValueError(f"DiT.grid is empty or (rows, columns), found {self.grid}.")
        check_attention(self.attention)
        super().__post_init__()

    @property
    def takes(self) -> tuple[Kind, ...]:
        """Labels; with adaLN also vectors and tokens."""
        return ("label", "vector", "tokens") if self.conditioning in ("adaln_zero", "adaln") else ("label",)

    @property
    def packs(self) -> bool:
        """With adaLN: packed rows of mixed sizes (`Layout`)."""
        return self.conditioning in ("adaln_zero", "adaln")

    streams: ClassVar[Literal["one"]] = "one"
    weighs: ClassVar[bool] = True

    @nn.compact
    def __call__(
        self,
        noisy: tuple[NoisyInput, ...],
        conditions: tuple[ConditionInput, ...] = (),
        *,
        layout: Any = None,
        capture: tuple[str, ...] = (),
    ) -> tuple[dict[str, Float[Array, "b ..."]], dict[str, Array]]:
        """See `Backbone`. captured["attention"] is `[layers, b, h, n, n]`, captured["block/3"] `[b, n, d]`."""
        blocks_kept = captured_blocks(capture, self.depth)
        dtype = jnp.dtype(self.dtype)
        one = only_stream(f"DiT with conditioning {self.conditioning!r}", noisy, None if self.packs else layout)
        form, (batch, *items) = one.form, one.t.shape
        tokens = constrain(one.x if layout else form.patches(one.x), "batch", "length", "patch")
        conditions = tuple(each_item(shown, layout) for shown in conditions)
        parts = [TimeEmbedding(self.width, self.frequency_shift, name="time")(one.t.reshape(-1))]
        for i, label in enumerate(shown for shown in conditions if shown.form.kind == "label"):
            table = LabelEmbedding(label.form.features, self.width, self.label_std, name=f"label_{i}")
            parts.append(weighted(label, table(label.value)))
        others = tuple(filled(self, shown) for shown in conditions if shown.form.kind != "label")
        vectors, texts = ([o for o in others if o.form.kind == kind] for kind in ("vector", "tokens"))
        for told in vectors:
            parts.append(weighted(told, VectorEmbedding(self.width, name=f"vector_{told.form.name}")(told.value)))
        one_row = self.conditioning in ("adaln_zero", "adaln")
        tokens_of_c = jnp.stack(parts, axis=1)
        c = jnp.sum(tokens_of_c, axis=1, keepdims=True) if one_row else tokens_of_c
        # Laid out here, gradients too: the partitioner of jax 0.10 would mix up rows on a mesh of data x fsdp x tensor.
        c = constrain(c.reshape(batch, *items, self.width), "batch", None, "embed") if layout else c
        x = Dense(self.width, ("patch", "embed"), dtype=dtype, name="patch")(tokens)
        places = places_of(form, self.grid, layout)
        x = x + sincos_positions(jnp.asarray(places), self.width).astype(dtype)
        if self.conditioning == "in_context":
            x = jnp.concatenate([x, c.astype(dtype)], axis=1)
        x = constrain(x, "batch", "length", "embed")
        turned = self._rotations(places, batch) if self.rotary else None
        x, found = self._blocks(x, c, "attention" in capture, bool(blocks_kept), texts, turned, layout)
        x = x[:, : tokens.shape[1]]
        final = ModulationRows(2, self.width, name="final_modulation")(c) if one_row else None
        rows = None if final is None else Modulation(*final, index=item_rows(layout))
        h = modulated(x, rows, self.norm, "final_norm")
        out = Dense(form.out_features, ("embed", "patch"), zeros, name="final")(h).astype(jnp.float32)
        captured = {name: found["hidden"][i, :, : tokens.shape[1]] for name, i in blocks_kept.items()}
        captured |= {"attention": found["attention"]} if "attention" in capture else {}
        return {form.name: out if layout else form.unpatch(out)}, captured

    def _rotations(self, places: Any, batch: int) -> Rotary:
        """Angles of the patches. Raises ValueError if the axes do not share a head evenly."""
        head, axes = self.width // self.heads, places.shape[-1]
        if head % (2 * axes):
            raise ValueError(f"DiT.rotary over {axes} axes needs heads divisible by {2 * axes}, found {head}.")
        shares = (head // axes,) * axes
        if places.ndim == 3:
            return token_rotations(places, shares, 10000.0)
        return axial_rotations(places, shares, 10000.0, batch)

    def _blocks(
        self, x: Array, c: Array, attention: bool, hidden: bool, texts: list[ConditionInput], rotary: Rotary | None,
        layout: Layout | None,
    ) -> tuple[Array, dict[str, Array]]:  # fmt: skip
        block = rematerialised(Block, self.remat, static=(4, 5))
        broadcast: Any = (nn.broadcast,) * 7
        stack = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=broadcast,
            length=self.depth,
            unroll=min(self.unroll, self.depth),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        dtype = jnp.dtype(self.dtype)
        names = tuple(one.form.name for one in texts)
        blocks = stack(
            self.conditioning, self.heads, self.mlp_ratio, self.qk_norm, dtype, self.attention, names, self.norm,
            self.mlp, self.shift, name="blocks",
        )  # fmt: skip
        memories = tuple(memory_of(o, x.shape[1], layout) for o in texts)
        visible = layout.visible if layout else None
        return blocks(x, c, visible, attention, hidden, memories, rotary, item_rows(layout))


def captured_blocks(capture: tuple[str, ...], depth: int) -> dict[str, int]:
    """{"block/3": 3} of the blocks to capture. Raises ValueError for an unknown name."""
    found = {}
    for name in capture:
        kind, _, index = name.partition("/")
        if kind == "block" and index.isdigit() and int(index) < depth:
            found[name] = int(index)
        elif name != "attention":
            raise ValueError(f"capture {name!r} is unknown; expected 'attention' or 'block/0' .. 'block/{depth - 1}'.")
    return found


def dit_preset(size: Literal["S", "B", "L", "XL"], dtype: Literal["float32", "bfloat16"] = "float32") -> DiT:
    """A published size."""
    depth, width, heads = SIZES[size]
    return DiT(depth=depth, width=width, heads=heads, dtype=dtype)


preset = dit_preset
"""Its name in version 0.1."""
