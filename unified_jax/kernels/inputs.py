"""The arguments shared by the three parts of the attention branch, in every implementation.

    x + gate * out(attend(qkv(norm(x) * (1 + scale) + shift), visible))

Modulation: `rows` are `[b, k, d]`. With `index=None` k is 1, one row per example, and is broadcast. With `index:
int32[b, n]` token i of example j is modulated by row `index[j, i]` (Transfusion: one time per item, row 0 the identity
for text).

Heads: the fused projection has the layout `[d, g, r + 2, e]`: g key/value heads, each with its r query heads, then its
key, then its value. r = 1 is multi-head attention. Sharding g over devices keeps each query with its key, in one
matmul.

Visible: query i attends to the key range `[visible[b, i, 0], visible[b, i, 1])`; an empty key range gives zero.
"""

from typing import Literal, NamedTuple

from jaxtyping import Array, Float, Int

NormKind = Literal["layer", "rms", "none"]

Rows = Float[Array, "b k d"]
Index = Int[Array, "b n"]
Visible = Int[Array, "b n 2"]


class Modulation(NamedTuple):
    """Rows of shift, scale and gate for one branch of a block, and each token's row (None: the only one)."""

    shift: Rows
    scale: Rows
    gate: Rows | None = None
    """None adds the branch unscaled (adaLN without gates)."""
    index: Index | None = None


class QkvWeights(NamedTuple):
    """The projection to queries, keys and values, with the optional gains of the norms around it."""

    kernel: Float[Array, "d g r2 e"]
    bias: Float[Array, "g r2 e"] | None = None
    norm_scale: Float[Array, "d"] | None = None
    norm_bias: Float[Array, "d"] | None = None
    q_scale: Float[Array, "e"] | None = None
    """Gain of the RMS norm of queries; None: queries and keys are not normalised."""
    k_scale: Float[Array, "e"] | None = None


class OutWeights(NamedTuple):
    """The projection back to the residual stream."""

    kernel: Float[Array, "h e d"]
    bias: Float[Array, "d"] | None = None


class Rotary(NamedTuple):
    """Angles' cosines and sines for each token; pair i is features (2 i, 2 i + 1) of a head (interleaved)."""

    cos: Float[Array, "b n e2"]
    sin: Float[Array, "b n e2"]
