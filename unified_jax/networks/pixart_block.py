r"""The block of PixArt, also with compressed keys and values (PixArt-Sigma, Chen et al. 2024, arXiv 2403.04692).

    k, v = LN(C k), LN(C v)         C: one convolution for both, each feature by itself, of size and stride `compress`

C is the mean of each square at the start. Queries keep their number, so that attention is `compress`^2 times cheaper.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels import choice
from unified_jax.kernels.choice import Attention
from unified_jax.kernels.inputs import Modulation, OutWeights, QkvWeights, Visible
from unified_jax.layers.attention import AttentionHalf, CrossAttentionHalf
from unified_jax.layers.init import declare, normal, xavier, zeros
from unified_jax.layers.modulation import AffineNorm, modulated_norm
from unified_jax.layers.remat import computed_once
from unified_jax.networks.encoder_blocks import Activation, EncoderMlp
from unified_jax.sharding import constrain

Memory = tuple[Float[Array, "b _ d"], Visible | None]


def mean_of(compress: int) -> functools.partial[Array]:
    """An initialiser: every weight of a square the same, with sum 1."""
    return functools.partial(_constant, 1.0 / compress**2)


def _constant(value: float, key: Array, shape: tuple[int, ...], dtype: object = jnp.float32) -> Array:
    del key, dtype
    return jnp.full(shape, value, jnp.float32)


class CompressedAttention(nn.Module):
    """x + gate * out(attend(q, C k, C v)), with the parameters of `AttentionHalf` and those of C."""

    heads: int
    compress: int
    grid: tuple[int, int]
    bias: bool
    eps: float
    dtype: jnp.dtype
    attention: Attention

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], modulation: Modulation) -> Float[Array, "b n d"]:
        """The residual stream after the branch."""
        d, e = x.shape[-1], x.shape[-1] // self.heads
        shape = (d, self.heads, 3, e)
        kernel = declare(self, "qkv_kernel", xavier(d, 3 * d), shape, ("embed", "heads", None, "head_dim"))
        bias = declare(self, "qkv_bias", zeros, shape[1:], ("heads", None, "head_dim")) if self.bias else None
        weights = QkvWeights(kernel.astype(self.dtype), bias)
        q, k, v = choice.modulated_qkv(x, modulation, weights, eps=self.eps, attention=self.attention)
        k, v = self._compressed(k, v)
        a, _ = choice.attend(q, k, v, attention=self.attention)
        out = declare(self, "out_kernel", xavier(d, d), (self.heads, e, d), ("heads", "head_dim", "embed"))
        back = OutWeights(out.astype(self.dtype), declare(self, "out_bias", zeros, (d,), ("embed",)))
        return choice.gated_out(x, a, back, modulation.gate, attention=self.attention)

    def _compressed(
        self, k: Float[Array, "b n h e"], v: Float[Array, "b n h e"]
    ) -> tuple[Float[Array, "b m h e"], Float[Array, "b m h e"]]:
        r, d, (rows, columns) = self.compress, k.shape[2] * k.shape[3], self.grid
        kernel = declare(self, "compress_kernel", mean_of(r), (r, r, d), (None, None, "embed"))
        bias = declare(self, "compress_bias", zeros, (d,), ("embed",))
        norm = AffineNorm(1e-5, name="compress_norm")

        def one(value: Array) -> Array:
            squares = value.reshape(len(value), rows // r, r, columns // r, r, d).astype(jnp.float32)
            y = jnp.sum(squares * kernel[:, None], axis=(2, 4)) + bias
            return norm(y.reshape(len(value), -1, d)).reshape(len(value), -1, *value.shape[2:]).astype(self.dtype)

        return one(k), one(v)


class PixArtBlock(nn.Module):
    """One block."""

    heads: int
    mlp_ratio: float
    bias: bool
    eps: float
    activation: Activation
    dtype: jnp.dtype
    attention: Attention
    reads: tuple[str, ...] = ()
    """Names of the token conditions."""
    compress: int = 1
    """Side of the squares of which attention keeps one key and value."""
    grid: tuple[int, int] = (1, 1)
    """Rows and columns of tokens."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        m: Float[Array, "b 6 d"],
        memories: tuple[Memory, ...] = (),
        capture: bool = False,
        hidden: bool = False,
    ) -> tuple[Float[Array, "b n d"], dict[str, Array]]:
        """(x, captured); captured["attention"] with `capture`, captured["hidden"], the new x, with `hidden`."""
        d = x.shape[-1]
        table = declare(self, "table", normal(d**-0.5), (6, d), (None, "embed"))
        # Cut along the batch alone before the split, as in `ModulationRows`.
        rows = constrain(table + m, "batch", None, "embed")
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(rows, 6, axis=1)
        x, captured = self._attended(x, Modulation(shift1, scale1, gate1), capture)
        x = computed_once(x)
        for name, (memory, shown) in zip(self.reads, memories, strict=True):
            cross = CrossAttentionHalf(
                self.heads, dtype=self.dtype, attention=self.attention, zero=True, bias=self.bias, norm=False,
                name=f"cross_{name}",
            )  # fmt: skip
            x = cross(x, memory, shown)
        h = modulated_norm(x, shift2, scale2, eps=self.eps)
        h = gate2 * EncoderMlp(int(d * self.mlp_ratio), self.activation, dtype=self.dtype, name="mlp")(h)
        x = computed_once(constrain(x + h.astype(x.dtype), "batch", "length", "embed"))
        return x, captured | ({"hidden": x} if hidden else {})

    def _attended(
        self, x: Float[Array, "b n d"], modulation: Modulation, capture: bool
    ) -> tuple[Float[Array, "b n d"], dict[str, Array]]:
        if self.compress == 1:
            half = AttentionHalf(
                self.heads, bias=self.bias, out_bias=True, eps=self.eps, dtype=self.dtype, attention=self.attention,
                name="attention",
            )  # fmt: skip
            return half(x, modulation, None, None, capture)
        half = CompressedAttention(
            self.heads, self.compress, self.grid, self.bias, self.eps, self.dtype, self.attention, name="attention"
        )
        return half(x, modulation), {}
