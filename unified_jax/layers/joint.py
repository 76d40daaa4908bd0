"""Attention over several streams of tokens together, each with weights of its own (Esser et al. 2024).

q, k, v of each stream from its own norm, modulation and projection;  one softmax over all tokens;
each stream adds its own projection of its own tokens' results.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from unified_jax.kernels import choice
from unified_jax.kernels.inputs import Modulation, OutWeights, QkvWeights, Rotary, Visible
from unified_jax.layers.init import declare, ones, xavier, zeros


class JointWeights(nn.Module):
    """The projections of one stream; named like those of `AttentionHalf`."""

    heads: int
    qk_norm: bool = False
    """Whether queries and keys have an RMS norm with gains."""
    out: bool = True
    """Whether results are projected back; False: the stream ends here."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, width: int) -> tuple[QkvWeights, OutWeights | None]:
        """(to queries, keys and values; back to the stream)."""
        e = width // self.heads
        shape = (width, self.heads, 3, e)
        kernel = declare(self, "qkv_kernel", xavier(width, 3 * width), shape, ("embed", "heads", None, "head_dim"))
        bias = declare(self, "qkv_bias", zeros, shape[1:], ("heads", None, "head_dim"))
        weights = QkvWeights(kernel.astype(self.dtype), bias)
        if self.qk_norm:
            q_scale = declare(self, "q_scale", ones, (e,), ("head_dim",))
            weights = weights._replace(q_scale=q_scale, k_scale=declare(self, "k_scale", ones, (e,), ("head_dim",)))
        if not self.out:
            return weights, None
        back = (self.heads, e, width)
        out = declare(self, "out_kernel", xavier(width, width), back, ("heads", "head_dim", "embed"))
        return weights, OutWeights(out.astype(self.dtype), declare(self, "out_bias", zeros, (width,), ("embed",)))


class Part(NamedTuple):
    """A stream that takes part in joint attention."""

    x: Float[Array, "b n d"]
    modulation: Modulation
    """Of its norm; the gate is not used."""
    weights: QkvWeights
    rotary: Rotary | None = None


def joint_attention(
    parts: Sequence[Part], visible: Visible | None, eps: float = 1e-6, attention: choice.Attention = "auto"
) -> list[Array]:
    """What each stream's tokens read from the tokens of all, `[b, n, h, e]`.

    `visible` counts keys through the streams in order.
    """
    runs, each = visible is not None, []
    for part in parts:
        each.append(
            choice.modulated_qkv(
                part.x, part.modulation, part.weights, eps=eps, rotary=part.rotary, attention=attention, runs=runs
            )
        )
    q, k, v = (jnp.concatenate(of_all, axis=1) for of_all in zip(*each, strict=True))
    a, _ = choice.attend(q, k, v, visible, attention=attention)
    found, at = [], 0
    for part in parts:
        found.append(a[:, at : at + part.x.shape[1]])
        at += part.x.shape[1]
    return found
