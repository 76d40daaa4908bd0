"""The attention branch of a transformer block as a layer: it holds the weights, `kernels/` computes."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from unified_jax.kernels import choice, reference
from unified_jax.kernels.elementwise import add_bias
from unified_jax.kernels.inputs import Modulation, NormKind, OutWeights, QkvWeights, Rotary, Visible
from unified_jax.kernels.product import einsum
from unified_jax.layers.init import declare, ones, xavier, zeros
from unified_jax.layers.modulation import AffineNorm
from unified_jax.sharding import constrain


class KvCache(NamedTuple):
    """Keys and values of the past tokens; sequence i continues at token `at[i]`."""

    k: Float[Array, "b m g e"]
    v: Float[Array, "b m g e"]
    at: Int[Array, "b"]

    def write(self, k: Float[Array, "b n g e"], v: Float[Array, "b n g e"]) -> "KvCache":
        """The cache with these from `at` on; `at` is unchanged, so that a span can be written repeatedly."""
        put = jax.vmap(lambda old, new, at: jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (at, 0, 0)))
        return KvCache(put(self.k, k, self.at), put(self.v, v, self.at), self.at)


class AttentionHalf(nn.Module):
    """x + gate * out(attend(qkv(norm(x) * (1 + scale) + shift))); multi-head, or grouped with `kv_heads` < `heads`.

    `affine` adds a gain to the norm (and a bias to a LayerNorm), for blocks without modulation; `bias` adds biases to
    the projections, `out_bias` (None: as `bias`) to the last of them.
    """

    heads: int
    kv_heads: int | None = None
    norm: NormKind = "layer"
    affine: bool = False
    bias: bool = True
    qk_norm: bool = False
    eps: float = 1e-6
    dtype: DTypeLike = jnp.float32
    attention: choice.Attention = "auto"
    out_bias: bool | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        modulation: Modulation | None = None,
        visible: Visible | None = None,
        rotary: Rotary | None = None,
        capture: bool = False,
        cache: KvCache | None = None,
    ) -> tuple[Float[Array, "b n d"], dict[str, Any]]:
        """(x, out). With `capture`, out["attention"] is `[b, h, n, n]`, from the reference path.

        With `cache`, x continues the sequences whose keys and values it holds: new ones are written from `cache.at` on,
        `visible` counts from the cache's first token, and out["cache"] is the updated cache.
        """
        d = x.shape[-1]
        qkv, out = self._qkv_weights(d), self._out_weights(d)
        if cache is not None:
            return self._continue(x, modulation, qkv, out, visible, rotary, cache)
        if not capture:
            x = choice.attention_half(
                x, modulation, qkv, out,
                visible=visible, norm=self.norm, eps=self.eps, rotary=rotary, attention=self.attention,
            )  # fmt: skip
            return constrain(x, "batch", "length", "embed"), {}
        q, k, v = reference.modulated_qkv(x, modulation, qkv, norm=self.norm, eps=self.eps, rotary=rotary)
        weights, _ = reference.attention_weights(q, k, visible)
        a, _ = reference.attend(q, k, v, visible)
        gate, index = (None, None) if modulation is None else (modulation.gate, modulation.index)
        return reference.gated_out(x, a, out, gate, index).astype(x.dtype), {"attention": weights}

    def _continue(
        self, x: Array, modulation: Modulation | None, qkv: QkvWeights, out: OutWeights, visible: Visible | None,
        rotary: Rotary | None, cache: KvCache,
    ) -> tuple[Array, dict[str, Any]]:  # fmt: skip
        # For single tokens a kernel would pad its tiles and read all weights for each example.
        attention = "xla" if self.attention == "pallas" and x.shape[1] < 16 else self.attention
        q, k, v = choice.modulated_qkv(
            x, modulation, qkv, norm=self.norm, eps=self.eps, rotary=rotary, attention=attention, runs=True
        )
        cache = cache.write(k, v)
        a, _ = choice.attend(q, cache.k, cache.v, visible, attention=attention)
        gate, index = (None, None) if modulation is None else (modulation.gate, modulation.index)
        return choice.gated_out(x, a, out, gate, index, attention=attention, runs=True), {"cache": cache}

    def _qkv_weights(self, d: int) -> QkvWeights:
        groups = self.kv_heads or self.heads
        shape = (d, groups, self.heads // groups + 2, d // self.heads)
        width = shape[1] * shape[2] * shape[3]
        kernel = declare(self, "qkv_kernel", xavier(d, width), shape, ("embed", "heads", None, "head_dim"))
        bias = declare(self, "qkv_bias", zeros, shape[1:], ("heads", None, "head_dim")) if self.bias else None
        weights = QkvWeights(kernel.astype(self.dtype), bias)
        if self.affine:
            weights = weights._replace(norm_scale=declare(self, "norm_gain", ones, (d,), ("embed",)))
        if self.affine and self.norm == "layer":
            weights = weights._replace(norm_bias=declare(self, "norm_bias", zeros, (d,), ("embed",)))
        if not self.qk_norm:
            return weights
        q_scale = declare(self, "q_scale", ones, shape[-1:], ("head_dim",))
        return weights._replace(q_scale=q_scale, k_scale=declare(self, "k_scale", ones, shape[-1:], ("head_dim",)))

    def _out_weights(self, d: int) -> OutWeights:
        shape = (self.heads, d // self.heads, d)
        kernel = declare(self, "out_kernel", xavier(d, d), shape, ("heads", "head_dim", "embed"))
        biased = self.bias if self.out_bias is None else self.out_bias
        bias = declare(self, "out_bias", zeros, (d,), ("embed",)) if biased else None
        return OutWeights(kernel.astype(self.dtype), bias)


class CrossAttentionHalf(nn.Module):
    """x + out(attend(q(norm(x)), k(memory), v(memory))): cross-attention to the memory. The norm is affine, or none.

    `zero` initialises the output projection with zeros, so that the branch starts as the identity; `bias` adds biases
    to queries, keys and values.
    """

    heads: int
    eps: float = 1e-6
    dtype: DTypeLike = jnp.float32
    attention: choice.Attention = "auto"
    zero: bool = False
    bias: bool = True
    norm: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], memory: Float[Array, "b m f"], visible: Visible | None = None
    ) -> Float[Array, "b n d"]:
        """The residual stream after the branch; the memory has a width of its own."""
        d, e, f = x.shape[-1], x.shape[-1] // self.heads, memory.shape[-1]
        h = (AffineNorm(self.eps, name="norm")(x) if self.norm else x).astype(self.dtype)
        q_kernel = declare(self, "q_kernel", xavier(d, d), (d, self.heads, e), ("embed", "heads", "head_dim"))
        q_bias = self._bias("q_bias", (self.heads, e), ("heads", "head_dim"))
        shape = (f, self.heads, 2, e)
        kv_kernel = declare(self, "kv_kernel", xavier(f, 2 * d), shape, ("embed", "heads", None, "head_dim"))
        kv_bias = self._bias("kv_bias", shape[1:], ("heads", None, "head_dim"))
        q = add_bias(einsum("bnd,dhe->bnhe", h, q_kernel.astype(self.dtype)), q_bias)
        kv = einsum("bmd,dhte->bmhte", memory.astype(self.dtype), kv_kernel.astype(self.dtype))
        kv = add_bias(kv, kv_bias)
        a, _ = choice.attend(q, kv[..., 0, :], kv[..., 1, :], visible, attention=self.attention)
        out_shape = (self.heads, e, d)
        out = declare(
            self, "out_kernel", zeros if self.zero else xavier(d, d), out_shape, ("heads", "head_dim", "embed")
        )
        weights = OutWeights(out.astype(self.dtype), declare(self, "out_bias", zeros, (d,), ("embed",)))
        return constrain(choice.gated_out(x, a, weights, attention=self.attention), "batch", "length", "embed")

    def _bias(self, name: str, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> Array:
        """Zero where there is none."""
        return declare(self, name, zeros, shape, axes) if self.bias else jnp.zeros(())
