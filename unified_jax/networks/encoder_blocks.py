r"""The pre-norm transformer block of text and image encoders (CLIP, T5, SigLIP, DINOv2), scanned over its layers.

x = x + s1 Attention(norm(x))
x = x + s2 MLP(norm(x))

norm        LayerNorm with gain and bias, or RMSNorm with a gain (T5)
MLP         W2 f(W1 x), or gated: W2 (f(W1a x) * W1b x)
attention   softmax(scale q k^T + bias) v; the scale is 1 / sqrt(head_dim), or 1 (T5); the bias one of relative
            positions, of all blocks together or of each block (T5, UMT5)
s1, s2      layer scale: a gain per feature (DINOv2), or 1
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.kernels import choice
from unified_jax.kernels.elementwise import activate, add_bias
from unified_jax.kernels.inputs import OutWeights, QkvWeights, Visible
from unified_jax.kernels.product import einsum
from unified_jax.kernels.reference import normalise
from unified_jax.layers.init import declare, normal, ones, xavier, zeros
from unified_jax.layers.mlp import Dense
from unified_jax.sharding import constrain

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]
"""gelu: x Phi(x), exactly; gelu_tanh: its approximation by tanh; quick_gelu: x sigmoid(1.702 x)."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class BlockSpec(NamedTuple):
    """What the blocks of an encoder share."""

    depth: int
    """Number of blocks."""
    heads: int
    """Attention heads."""
    hidden: int
    """Hidden features of the MLP."""
    activation: Activation
    """Activation of the MLP."""
    eps: float
    """Added to the variance in every norm."""
    dtype: Any
    """Compute dtype of products; the residual stream is float32."""
    attention: choice.Attention = "auto"
    """Implementation of attention."""
    head_dim: int = 0
    """Features of a head; 0: the width over the heads."""
    norm: Literal["layer", "rms"] = "layer"
    """Kind of the norms."""
    bias: bool = True
    """Whether projections and the MLP have biases."""
    qkv_bias: bool = True
    """Whether queries, keys and values have them too."""
    gated: bool = False
    """Whether the MLP is gated."""
    layer_scale: bool = False
    """Whether both branches have a gain per feature."""
    scaled: bool = True
    """Whether scores are divided by sqrt(head_dim)."""
    buckets: int = 0
    """Rows of each block's own table of relative positions; 0: it has none."""


class Norm(nn.Module):
    """LayerNorm with gain and bias, or RMSNorm with a gain, float32."""

    kind: Literal["layer", "rms"] = "layer"
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
        """The normalised x."""
        h = normalise(x, self.kind, self.eps) * declare(self, "gain", ones, x.shape[-1:], ("embed",))
        return h if self.kind == "rms" else h + declare(self, "bias", zeros, x.shape[-1:], ("embed",))


class EncoderMlp(nn.Module):
    """W2 f(W1 x), or W2 (f(W1a x) * W1b x); gated, `fc1/kernel` is `[d, 2, hidden]`: W1a, then W1b."""

    hidden: int
    activation: Activation
    gated: bool = False
    bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """The hidden features are sharded over the tensor axis."""
        act, d = ACTIVATIONS[self.activation], x.shape[-1]
        if self.gated:
            h = GatedDense(self.hidden, self.bias, self.dtype, name="fc1")(x)
            h = activate(lambda g, a: act(g) * a, h[..., 0, :], h[..., 1, :])
        else:
            h = activate(act, Dense(self.hidden, ("embed", "mlp"), dtype=self.dtype, bias=self.bias, name="fc1")(x))
        h = constrain(h, "batch", "length", "mlp")
        return Dense(d, ("mlp", "embed"), dtype=self.dtype, bias=self.bias, name="fc2")(h)


class GatedDense(nn.Module):
    """Two linear layers of one input, side by side: `[..., 2, features]`."""

    features: int
    bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n 2 m"]:
        """Computes in `dtype`."""
        shape = (x.shape[-1], 2, self.features)
        kernel = declare(self, "kernel", xavier(shape[0], self.features), shape, ("embed", None, "mlp"))
        y = einsum("bnd,dgm->bngm", x.astype(self.dtype), kernel.astype(self.dtype))
        return add_bias(y, declare(self, "bias", zeros, shape[1:], (None, "mlp"))) if self.bias else y


class EncoderAttention(nn.Module):
    """x + gate * out(attend(qkv(norm(x)))), with the parameters of `layers.attention.AttentionHalf`."""

    spec: BlockSpec

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], visible: Visible | None, bias: Float[Array, "h n m"] | None
    ) -> Float[Array, "b n d"]:
        """The residual stream after the branch."""
        s, d = self.spec, x.shape[-1]
        e = s.head_dim or d // s.heads
        shape = (d, s.heads, 3, e)
        kernel = declare(self, "qkv_kernel", xavier(d, 3 * s.heads * e), shape, ("embed", "heads", None, "head_dim"))
        qkv = QkvWeights(kernel.astype(s.dtype), norm_scale=declare(self, "norm_gain", ones, (d,), ("embed",)))
        if s.norm == "layer":
            qkv = qkv._replace(norm_bias=declare(self, "norm_bias", zeros, (d,), ("embed",)))
        if s.qkv_bias:
            qkv = qkv._replace(bias=declare(self, "qkv_bias", zeros, shape[1:], ("heads", None, "head_dim")))
        runs = visible is not None
        q, k, v = choice.modulated_qkv(x, None, qkv, norm=s.norm, eps=s.eps, attention=s.attention, runs=runs)
        if not s.scaled:
            q = q * math.sqrt(e)
        if bias is not None:
            bias = jnp.broadcast_to(bias, (x.shape[0], *bias.shape))
        a, _ = choice.attend(q, k, v, visible, bias, attention=s.attention)
        out_shape = (s.heads, e, d)
        out = declare(self, "out_kernel", xavier(s.heads * e, d), out_shape, ("heads", "head_dim", "embed"))
        out_bias = declare(self, "out_bias", zeros, (d,), ("embed",)) if s.bias else None
        weights, gate = OutWeights(out.astype(s.dtype), out_bias), None
        if s.layer_scale:
            gate = jnp.broadcast_to(declare(self, "scale", ones, (d,), ("embed",)), (x.shape[0], 1, d))
        return choice.gated_out(x, a, weights, gate, attention=s.attention, runs=runs)


class EncoderBlock(nn.Module):
    """One block."""

    spec: BlockSpec
    keep: bool = False
    """Whether the block's output is returned beside the residual stream."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        visible: Visible | None = None,
        bias: Float[Array, "h n m"] | None = None,
        offsets: Int[Array, "n m"] | None = None,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b n d"] | None]:
        """(x after the block, the same where it is kept), as a scan takes it.

        bias      of the scores, the same for every block
        offsets   the row of each pair of tokens in the block's own table of biases
        """
        s = self.spec
        if offsets is not None:
            table = declare(self, "relative", normal(0.02), (s.buckets, s.heads), (None, "heads"))
            bias = relative_bias(table, offsets)
        x = EncoderAttention(s, name="attention")(x, visible, bias)
        h = Norm(s.norm, s.eps, name="norm")(x)
        h = EncoderMlp(s.hidden, s.activation, s.gated, s.bias, s.dtype, name="mlp")(h).astype(x.dtype)
        if s.layer_scale:
            h = h * declare(self, "scale", ones, x.shape[-1:], ("embed",))
        x = constrain(x + h, "batch", "length", "embed")
        return x, x if self.keep else None


def relative_bias(table: Float[Array, "k h"], offsets: Int[Array, "n m"]) -> Float[Array, "h n m"]:
    """The bias of each pair of tokens, a row of the table."""
    return jnp.moveaxis(table[offsets], -1, 0)


def encoder_blocks(
    spec: BlockSpec,
    x: Float[Array, "b n d"],
    visible: Visible | None = None,
    bias: Float[Array, "h n m"] | None = None,
    offsets: Int[Array, "n m"] | None = None,
    keep: bool = False,
) -> tuple[Float[Array, "b n d"], Float[Array, "l b n d"] | None]:
    """(x after all blocks, with `keep` what enters each block and what leaves the last), in the calling module.

    The parameters are `blocks`, stacked along their first axis.
    """
    stack = nn.scan(
        EncoderBlock,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast,) * 3,  # pyright: ignore[reportArgumentType]
        length=spec.depth,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    first = x
    x, kept = stack(spec, keep, name="blocks")(x, visible, bias, offsets)
    return x, None if kept is None else jnp.concatenate([first[None], kept])


def prefix_range(
    length: Int[Array, "b"] | None, batch: int, tokens: int, causal: bool = False
) -> Int[Array, "b n 2"] | None:
    """The key range of each token: the first `length`, with `causal` none that come later; None: every token."""
    if length is None and not causal:
        return None
    stop = jnp.arange(1, tokens + 1) if causal else jnp.full((tokens,), tokens)
    stop = jnp.broadcast_to(stop, (batch, tokens))
    if length is not None:
        stop = jnp.minimum(stop, length[:, None])
    return jnp.stack([jnp.zeros_like(stop), stop], axis=-1)
