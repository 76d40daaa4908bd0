r"""The encoder of T5 v1.1 (Raffel et al. 2020, arXiv 1910.10683) and of UMT5 (Chung et al. 2023).

    x = token[id]                                      no positions, no scaling
    x = x + O softmax(q k^T + B) v                     RMSNorm before; no division by sqrt(head_dim); no biases
    x = x + W2 (gelu(W1a x) * W1b x)                   RMSNorm before
    y = RMSNorm(x)

B[i, j] is a row of a table by the distance j - i: half of the rows for keys to the right; of each half the first are
one for a distance, the rest logarithmic up to `reach`. T5 has one table for all blocks, UMT5 one in each (`shared`).
T5 1.0 has the ungated MLP W2 relu(W1 x).
"""

import math
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.layers.init import declare, normal
from unified_jax.networks.encoder_blocks import (
    Activation,
    BlockSpec,
    Norm,
    encoder_blocks,
    prefix_range,
    relative_bias,
)
from unified_jax.sharding import constrain


class T5Output(NamedTuple):
    """The outputs of a T5 encoder, float32."""

    tokens: Float[Array, "b m d"]
    """Features after the final norm."""
    hidden: Float[Array, "l b m d"] | None = None
    """What enters each block, and what leaves the last, before the final norm; None unless asked for."""


def relative_buckets(tokens: int, buckets: int, reach: int) -> Int[np.ndarray, "n n"]:
    """The row of the table for each pair (query, key).

    >>> relative_buckets(3, 8, 20)[0].tolist()
    [0, 5, 6]
    """
    distance = np.arange(tokens)[None] - np.arange(tokens)[:, None]
    half = buckets // 2
    near = half // 2
    far = np.log(np.maximum(np.abs(distance), 1).astype(np.float32) / near) / math.log(reach / near) * (half - near)
    far = np.minimum(near + far.astype(np.int32), half - 1)
    return (np.where(np.abs(distance) < near, np.abs(distance), far) + half * (distance > 0)).astype(np.int32)


class T5Encoder(nn.Module):
    """A bidirectional transformer with relative positions, by default T5 v1.1 XXL's encoder."""

    vocabulary: int = 32128
    """Number of token ids."""
    width: int = 4096
    """Features of the residual stream, and of a token."""
    depth: int = 24
    """Number of blocks."""
    heads: int = 64
    """Attention heads."""
    head_dim: int = 64
    """Features of a head; heads times head_dim may differ from width."""
    hidden: int = 10240
    """Hidden features of the MLP."""
    activation: Activation = "gelu_tanh"
    """Activation of the MLP."""
    gated: bool = True
    """Whether the MLP is gated."""
    buckets: int = 32
    """Rows of a table of relative positions."""
    reach: int = 128
    """Distance from which on all pairs share a row."""
    shared: bool = True
    """Whether one table serves all blocks (T5), or each has its own (UMT5)."""
    eps: float = 1e-6
    """Added to the mean square in every norm."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, the residual stream, norms and softmax stay float32."""
    attention: Attention = "auto"
    """Implementation of attention; with a bias of the scores 'auto' is 'xla'."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "depth", "heads", "head_dim", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"T5Encoder.{name} must be at least 1, found {getattr(self, name)}.")
        if self.buckets < 4 or self.buckets % 2:
            raise ValueError(f"T5Encoder.buckets must be even and at least 4, found {self.buckets}.")
        if self.reach <= self.buckets // 4:
            raise ValueError(f"T5Encoder.reach must be above a quarter of its {self.buckets} buckets.")
        check_attention(self.attention)
        super().__post_init__()

    @nn.compact
    def __call__(self, ids: Int[Array, "b m"], length: Int[Array, "b"] | None = None, keep: bool = False) -> T5Output:
        """The features of each token; nothing attends to what comes after `length` (None: all are there).

        `keep` asks for `hidden`.
        """
        b, m = ids.shape
        table = declare(self, "tokens", normal(1.0), (self.vocabulary, self.width), ("vocab", "embed"))
        x = constrain(table[ids].astype(jnp.float32), "batch", "length", "embed")
        spec = BlockSpec(
            self.depth, self.heads, self.hidden, self.activation, self.eps, jnp.dtype(self.dtype), self.attention,
            head_dim=self.head_dim, norm="rms", bias=False, qkv_bias=False, gated=self.gated, scaled=False,
            buckets=0 if self.shared else self.buckets,
        )  # fmt: skip
        offsets = jnp.asarray(relative_buckets(m, self.buckets, self.reach))
        bias = None
        if self.shared:
            rows = declare(self, "relative", normal(0.02), (self.buckets, self.heads), (None, "heads"))
            bias, offsets = relative_bias(rows, offsets), None
        x, hidden = encoder_blocks(spec, x, prefix_range(length, b, m), bias, offsets, keep)
        return T5Output(Norm("rms", self.eps, name="norm")(x), hidden)
