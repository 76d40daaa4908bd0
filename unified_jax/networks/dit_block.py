"""The block of DiT, with the four ways of conditioning and LightningDiT's options (`networks.dit`, `.lightningdit`)."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels.choice import Attention
from unified_jax.kernels.inputs import Index, Modulation, Rotary, Visible
from unified_jax.kernels.xla import modulate, pick_rows
from unified_jax.layers.attention import AttentionHalf, CrossAttentionHalf
from unified_jax.layers.mlp import Mlp
from unified_jax.layers.modulation import AffineNorm, ModulationRows, modulated_norm
from unified_jax.layers.remat import computed_once
from unified_jax.networks.encoder_blocks import EncoderMlp, Norm
from unified_jax.sharding import constrain

Conditioning = Literal["adaln_zero", "adaln", "cross", "in_context"]


class Block(nn.Module):
    """One DiT block."""

    conditioning: Conditioning
    heads: int
    mlp_ratio: float
    qk_norm: bool
    dtype: jnp.dtype
    attention: Attention
    reads: tuple[str, ...] = ()
    """Names of the token conditions."""
    norm: Literal["layer", "rms"] = "layer"
    """Norm before both branches; RMSNorm has a gain."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """SwiGLU has two thirds of the hidden features, twice."""
    shift: bool = True
    """Whether the modulation shifts."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        c: Float[Array, "b k d"],
        visible: Visible | None = None,
        capture: bool = False,
        hidden: bool = False,
        memories: tuple[tuple[Array, Visible | None], ...] = (),
        rotary: Rotary | None = None,
        index: Index | None = None,
    ) -> tuple[Float[Array, "b n d"], dict[str, Array]]:
        """(x, captured); c is one row per example (adaLN) or the tokens of the condition (cross).

        memories   (tokens `[b, m, f]`, visible range) of each token condition in `reads`
        index      the row of c that modulates each token (adaLN); None: the only one

        captured["attention"] with `capture`, captured["hidden"], the new x, with `hidden`.
        """
        d = x.shape[-1]
        first, second = self._rows(c, d, index)
        half = AttentionHalf(
            self.heads, norm=self.norm, affine=first is None or self.norm == "rms", qk_norm=self.qk_norm,
            dtype=self.dtype, attention=self.attention, name="attention",
        )  # fmt: skip
        x, captured = half(x, first, visible, rotary, capture)
        x = computed_once(x)
        if self.conditioning == "cross":
            x = CrossAttentionHalf(self.heads, dtype=self.dtype, attention=self.attention, name="cross")(x, c)
        for name, (memory, shown) in zip(self.reads, memories, strict=True):
            half = CrossAttentionHalf(
                self.heads, dtype=self.dtype, attention=self.attention, zero=True, name=f"cross_{name}"
            )
            x = half(x, memory, shown)
        h = modulated(x, second, self.norm, "norm")
        if self.mlp == "gelu":
            h = Mlp(int(d * self.mlp_ratio), self.dtype, name="mlp")(h)
        else:
            h = EncoderMlp(int(2 / 3 * int(d * self.mlp_ratio)), "silu", True, dtype=self.dtype, name="mlp")(h)
        if second is not None and second.gate is not None:
            h = pick_rows(second.gate, index) * h
        x = computed_once(constrain(x + h.astype(x.dtype), "batch", "length", "embed"))
        return x, captured | ({"hidden": x} if hidden else {})

    def _rows(self, c: Array, d: int, index: Index | None) -> tuple[Modulation | None, Modulation | None]:
        """Modulation of the attention branch and of the MLP branch."""
        if self.conditioning in ("cross", "in_context"):
            return None, None
        gates, shifts = int(self.conditioning == "adaln_zero"), int(self.shift)
        each = 1 + gates + shifts
        rows = ModulationRows(2 * each, d, name="modulation")(c)

        def one(rows: tuple[Array, ...]) -> Modulation:
            shift = rows[0] if shifts else jnp.zeros_like(rows[0])
            return Modulation(shift, rows[shifts], rows[-1] if gates else None, index)

        return one(rows[:each]), one(rows[each:])


def modulated(
    x: Float[Array, "b n d"], rows: Modulation | None, norm: Literal["layer", "rms"], name: str
) -> Float[Array, "b n d"]:
    """The norm of x, modulated; of a LayerNorm without modulation, with a gain and a bias. Inside a compact call."""
    if norm == "rms":
        h = Norm("rms", name=name)(x)
        return h if rows is None else modulate(h, rows.shift, rows.scale, rows.index)
    return AffineNorm(name=name)(x) if rows is None else modulated_norm(x, rows.shift, rows.scale, rows.index)
