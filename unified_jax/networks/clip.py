r"""The text towers of CLIP (Radford et al. 2021, arXiv 2103.00020) and of its successors: token ids in, features out.

    x      = token[id] + position                      pre-norm blocks (`networks.encoder_blocks`), causal
    tokens = LN(x)
    pooled = W tokens[end]                             end: the end-of-text token

CLIP's first files say which token ends a text wrongly and pool at the largest id, which is the same token; later ones
pool at the first end token. Padding is a token like others: only the causal order keeps it from the text, unless a
length is given. Diffusion models read the last features or the ones before (`TextOutput.hidden`), with or without the
final norm. SigLIP's tower (`networks.siglip`) is not causal and pools at the last place.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.layers.init import declare, normal
from unified_jax.layers.mlp import Dense
from unified_jax.networks.encoder_blocks import Activation, BlockSpec, Norm, encoder_blocks, prefix_range
from unified_jax.sharding import constrain

Pool = Literal["largest", "end", "last"]


class TextOutput(NamedTuple):
    """The outputs of a text tower, float32."""

    tokens: Float[Array, "b m d"]
    """Features after the final norm."""
    pooled: Float[Array, "b v"]
    """The vector of the text."""
    hidden: Float[Array, "l b m d"] | None = None
    """What enters each block, and what leaves the last, before the final norm; None unless asked for."""


class TextTower(nn.Module):
    """A transformer over the tokens of a text, by default CLIP's of ViT-L/14."""

    vocabulary: int = 49408
    """Number of token ids."""
    length: int = 77
    """Rows of the table of positions: the longest text."""
    width: int = 768
    """Features of the residual stream, and of a token."""
    depth: int = 12
    """Number of blocks."""
    heads: int = 12
    """Attention heads; must divide width."""
    hidden: int = 3072
    """Hidden features of the MLP."""
    activation: Activation = "quick_gelu"
    """Activation of the MLP: OpenAI's 'quick_gelu', OpenCLIP's 'gelu', SigLIP's 'gelu_tanh'."""
    eps: float = 1e-5
    """Added to the variance in every norm."""
    projection: int = 0
    """Features of the projected vector; 0: the vector is not projected."""
    projection_bias: bool = False
    """Whether the projection has a bias."""
    causal: bool = True
    """Whether a token attends to earlier tokens only."""
    pool: Pool = "end"
    """Where the vector is taken: at the largest id, at the first `end`, or at the last place."""
    end: int = 49407
    """Id of the token that ends a text."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, the residual stream, norms and softmax stay float32."""
    attention: Attention = "auto"
    """Implementation of attention."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "length", "width", "depth", "heads", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"TextTower.{name} must be at least 1, found {getattr(self, name)}.")
        if self.width % self.heads:
            raise ValueError(f"TextTower.width {self.width} is not divisible by its {self.heads} heads.")
        if self.projection < 0:
            raise ValueError(f"TextTower.projection must not be negative, found {self.projection}.")
        if not self.eps > 0:
            raise ValueError(f"TextTower.eps must be positive, found {self.eps}.")
        check_attention(self.attention)
        super().__post_init__()

    @nn.compact
    def __call__(self, ids: Int[Array, "b m"], length: Int[Array, "b"] | None = None, keep: bool = False) -> TextOutput:
        """The features of each token; `length` masks what comes after so many tokens, `keep` asks for `hidden`.

        Raises ValueError for rows of more ids than there are positions.
        """
        b, m = ids.shape
        if m > self.length:
            raise ValueError(f"TextTower has positions for {self.length} tokens, found rows of {m}.")
        table = declare(self, "tokens", normal(0.02), (self.vocabulary, self.width), ("vocab", "embed"))
        positions = declare(self, "positions", normal(0.01), (self.length, self.width), (None, "embed"))
        x = constrain((table[ids] + positions[:m]).astype(jnp.float32), "batch", "length", "embed")
        spec = BlockSpec(
            self.depth, self.heads, self.hidden, self.activation, self.eps, jnp.dtype(self.dtype), self.attention
        )
        x, hidden = encoder_blocks(spec, x, prefix_range(length, b, m, self.causal), keep=keep)
        tokens = Norm("layer", self.eps, name="norm")(x)
        return TextOutput(tokens, self._pooled(ids, tokens), hidden)

    def _pooled(self, ids: Int[Array, "b m"], tokens: Float[Array, "b m d"]) -> Float[Array, "b v"]:
        if self.pool == "last":
            vector = tokens[:, -1]
        else:
            at = jnp.argmax(ids if self.pool == "largest" else ids == self.end, axis=-1)
            vector = jnp.take_along_axis(tokens, at[:, None, None], axis=1)[:, 0]
        if not self.projection:
            return vector
        project = Dense(self.projection, ("embed", None), bias=self.projection_bias, name="projection")
        return project(vector)
