r"""MDTv2 (Gao et al. 2023, arXiv:2303.14389): a DiT with long shortcuts that is also trained on masked tokens.

    x0 = patches W + b + positions                                positions are learned, sin-cos at the start
    in      half blocks, whose outputs are kept                   half = (depth - decoders) / 2
    out     half blocks; each first joins what was kept last:     x = W [x, kept] + b
    side    x = x + decoder positions; in a masked pass hidden tokens are e_mask + decoder positions, and one block
            fills them in:  x = m block(x) + (1 - m) x            m = 1 at hidden tokens alone
    decode  `decoders` blocks; each first joins the beginning:    x = W [x, x0] + b
    final   as DiT's

Blocks are DiT's with adaLN-Zero and a bias on the attention logits by relative position (`networks.mdit_block`). In a
masked pass the in and out blocks see kept tokens alone; `models.masked_diffusion` trains with both passes. No
reference's numbers are at hand: closed forms are the tests.
"""

from typing import Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.layers.conditions import weighted
from unified_jax.layers.embeddings import LabelEmbedding, TimeEmbedding, sincos_positions
from unified_jax.layers.form import ConditionInput, Form, Kind, NoisyInput, only_stream
from unified_jax.layers.init import declare, normal, zeros
from unified_jax.layers.mlp import Dense
from unified_jax.layers.modulation import ModulationRows, modulated_norm
from unified_jax.layers.remat import Remat, rematerialised
from unified_jax.modalities.grid import grid_of
from unified_jax.networks.dit import SIZES
from unified_jax.networks.mdit_block import MditBlock
from unified_jax.sharding import constrain
from unified_jax.typing import Keys

STACKS = ("in_blocks", "out_blocks", "side", "decoders")
"""Blocks with a table of the offsets of pairs of tokens."""


class Masked(NamedTuple):
    """What a masked pass sees."""

    order: Int[Array, "b n"]
    """A permutation of the tokens of each example: those kept come first."""
    kept: Int[Array, "b"]
    """How many are kept, at most `room`."""
    room: int
    """Tokens of the in and out blocks, a static number."""


class MaskedDiT(nn.Module):
    """MDTv2 over the patches of one array with two axes."""

    depth: int = 28
    """Blocks without the side block."""
    decoders: int = 4
    """Blocks after it (4 of the released XL/2)."""
    width: int = 1152
    """Features of the residual stream."""
    heads: int = 16
    """Attention heads; must divide width."""
    mlp_ratio: float = 4.0
    """Hidden features of the MLP, as a multiple of width."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, norms, softmax and modulation stay float32."""
    label_std: float = 0.02
    """Initial standard deviation of the label tables."""
    attention: Attention = "auto"
    """Implementation of attention."""
    remat: Remat = "dots"
    """Rematerialisation: what the backward pass keeps of a block (`layers.remat`)."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"MaskedDiT.width {self.width} must be divisible by its {self.heads} heads, and by 4.")
        if self.decoders < 1 or self.depth - self.decoders < 2 or (self.depth - self.decoders) % 2:
            raise ValueError(
                f"MaskedDiT needs a decoder and an even number of blocks before it, found {self.depth} blocks with "
                f"{self.decoders} decoders."
            )
        check_attention(self.attention)
        super().__post_init__()

    takes: ClassVar[tuple[Kind, ...]] = ("label",)
    streams: ClassVar[Literal["one"]] = "one"
    weighs: ClassVar[bool] = True

    @staticmethod
    def masks(key: Array, rows: Keys, tokens: int, low: float, high: float) -> Masked:
        """See `draw_masked`."""
        return draw_masked(key, rows, tokens, low, high)

    @nn.compact
    def __call__(
        self,
        noisy: tuple[NoisyInput, ...],
        conditions: tuple[ConditionInput, ...] = (),
        *,
        layout: Any = None,
        capture: tuple[str, ...] = (),
        masked: Masked | None = None,
    ) -> tuple[dict[str, Float[Array, "b ..."]], dict[str, Array]]:
        """See `Backbone`; with `masked` the pass that sees a part of the tokens, and predicts all."""
        if capture:
            raise ValueError(f"MaskedDiT captures nothing, found {', '.join(capture)}.")
        one = only_stream("MaskedDiT", noisy, layout)
        form, dtype = one.form, jnp.dtype(self.dtype)
        c = TimeEmbedding(self.width, name="time")(one.t)
        for i, label in enumerate(conditions):
            table = LabelEmbedding(label.form.features, self.width, self.label_std, name=f"label_{i}")
            c = c + weighted(label, table(label.value))
        c = c[:, None]
        tokens = constrain(form.patches(one.x), "batch", "length", "patch")
        x = Dense(self.width, ("patch", "embed"), dtype=dtype, name="patch")(tokens)
        begun = constrain(x + self._positions("positions", form).astype(dtype), "batch", "length", "embed")
        x = self._side(self._encoded(begun, c, form, masked), c, form, masked)
        x, _ = self._stack("decoders", self.decoders, form, True, nn.broadcast)(x, begun, c, None, None)
        shift, scale = ModulationRows(2, self.width, name="final_modulation")(c)
        out = Dense(form.out_features, ("embed", "patch"), zeros, name="final")(modulated_norm(x, shift, scale))
        return {form.name: form.unpatch(out.astype(jnp.float32))}, {}

    def position_grids(self, forms: tuple[Form, ...]) -> dict[str, tuple[int, int]]:
        """See `Positioned`: positions, and the offsets of pairs in the blocks' tables."""
        ((rows, columns),) = (grid_of(form.shape[:-1], form.cut) for form in forms)
        stacks = {f"{name}/relative": (2 * rows - 1, 2 * columns - 1) for name in STACKS}
        return {"positions": (rows, columns), "decoder_positions": (rows, columns), **stacks}

    def _positions(self, name: str, form: Form) -> Float[Array, "n d"]:
        def start(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
            del key, dtype
            return sincos_positions(jnp.asarray(form.positions()), shape[-1])

        return declare(self, name, start, (form.tokens, self.width), (None, "embed"))

    def _encoded(self, x: Array, c: Array, form: Form, masked: Masked | None) -> Float[Array, "b m d"]:
        """The in and out blocks, over the tokens that are seen."""
        places, visible = None, None
        if masked is not None:
            places = masked.order[:, : masked.room]
            x = jnp.take_along_axis(x, places[..., None], axis=1)
            stop = jnp.broadcast_to(masked.kept[:, None], places.shape)
            visible = jnp.stack([jnp.zeros_like(stop), stop], axis=-1)
        half = (self.depth - self.decoders) // 2
        x, kept = self._stack("in_blocks", half, form, False, nn.broadcast)(x, None, c, places, visible)
        x, _ = self._stack("out_blocks", half, form, True, 0)(x, jnp.flip(kept, 0), c, places, visible)
        return x

    def _side(self, x: Array, c: Array, form: Form, masked: Masked | None) -> Float[Array, "b n d"]:
        """All tokens with the decoder's positions; those that are hidden are made by the side block."""
        places = self._positions("decoder_positions", form).astype(x.dtype)
        hole = declare(self, "mask", normal(0.02), (self.width,), ("embed",))
        side = self._block("side", form)
        if masked is None:
            if self.is_initializing():
                side(x, None, c, None, None)
            return x + places
        rank = jnp.argsort(masked.order, axis=1)
        hidden = (rank >= masked.kept[:, None])[..., None]
        seen = jnp.take_along_axis(x, jnp.minimum(rank, masked.room - 1)[..., None], axis=1)
        whole = jnp.where(hidden, hole.astype(x.dtype), seen) + places
        filled, _ = side(whole, None, c, None, None)
        return jnp.where(hidden, filled, whole)

    def _block(self, name: str, form: Form) -> Any:
        rows, columns = grid_of(form.shape[:-1], form.cut)
        dtype = jnp.dtype(self.dtype)
        return MditBlock(self.heads, self.mlp_ratio, (rows, columns), dtype, self.attention, name=name)

    def _stack(self, name: str, length: int, form: Form, joins: bool, kept: Any) -> Any:
        rows, columns = grid_of(form.shape[:-1], form.cut)
        axes: Any = (kept, nn.broadcast, nn.broadcast, nn.broadcast)
        stack = nn.scan(
            rematerialised(MditBlock, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=axes,
            length=length,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        dtype = jnp.dtype(self.dtype)
        return stack(self.heads, self.mlp_ratio, (rows, columns), dtype, self.attention, joins, name=name)


def draw_masked(key: Array, rows: Keys, tokens: int, low: float, high: float) -> Masked:
    """Masks: a permutation by each row's key, and by `key` one share of hidden tokens, uniform in [low, high]."""
    hidden = jax.random.uniform(key, minval=low, maxval=high)
    kept = jnp.clip(jnp.floor(tokens * (1.0 - hidden)), 1, tokens).astype(jnp.int32)
    order = jax.vmap(lambda k: jax.random.permutation(k, tokens))(rows)
    return Masked(order, jnp.full((len(rows),), kept), max(1, int(tokens * (1.0 - low))))


def masked_preset(size: Literal["S", "B", "L", "XL"], decoders: int = 4) -> MaskedDiT:
    """A published size."""
    depth, width, heads = SIZES[size]
    return MaskedDiT(depth=depth, width=width, heads=heads, decoders=decoders)
