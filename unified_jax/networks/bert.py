r"""BERT (Devlin et al. 2018, arXiv 1810.04805), as an encoder of texts: token ids in, one feature vector per token out.

    x  = LN(token[id] + position[i] + type[0])
    x  = LN(x + Attention(x))                    post-norm: the norm is on the residual stream
    x  = LN(x + W2 activation(W1 x + b1) + b2)

Tokens attend to the first `length` tokens of their text. A text is one segment, so that every token has the first
type. There is no dropout: the encoder is not trained here. The blocks are one block scanned over a leading `layers`
axis of its parameters.
"""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.kernels.inputs import Visible
from unified_jax.layers.attention import AttentionHalf
from unified_jax.layers.init import declare, normal
from unified_jax.layers.mlp import Dense
from unified_jax.layers.modulation import AffineNorm
from unified_jax.sharding import constrain

Activation = Literal["gelu", "gelu_new", "relu"]
"""gelu: x Phi(x), exactly; gelu_new: its approximation by tanh."""


ACTIVATIONS = {"gelu": functools.partial(jax.nn.gelu, approximate=False), "gelu_new": jax.nn.gelu, "relu": jax.nn.relu}


class BertBlock(nn.Module):
    """One block."""

    heads: int
    hidden: int
    activation: Activation
    eps: float
    dtype: jnp.dtype
    attention: Attention

    @nn.compact
    def __call__(self, x: Float[Array, "b m d"], visible: Visible) -> tuple[Float[Array, "b m d"], None]:
        """(x after the block, nothing), as a scan takes it."""
        half = AttentionHalf(self.heads, norm="none", dtype=self.dtype, attention=self.attention, name="attention")
        x, _ = half(x, None, visible)
        x = AffineNorm(self.eps, name="attention_norm")(x)
        h = Dense(self.hidden, ("embed", "mlp"), dtype=self.dtype, name="fc1")(x)
        h = constrain(ACTIVATIONS[self.activation](h), "batch", "length", "mlp")
        h = Dense(x.shape[-1], ("mlp", "embed"), dtype=self.dtype, name="fc2")(h)
        x = AffineNorm(self.eps, name="mlp_norm")(x + h.astype(x.dtype))
        return constrain(x, "batch", "length", "embed"), None


class Bert(nn.Module):
    """A bidirectional transformer over the tokens of a text."""

    vocabulary: int = 30522
    """Number of token ids."""
    length: int = 512
    """Rows of the table of positions: the longest text."""
    width: int = 384
    """Features of the residual stream, and of a token of the output."""
    depth: int = 6
    """Number of blocks."""
    heads: int = 12
    """Attention heads; must divide width."""
    hidden: int = 1536
    """Hidden features of the MLP."""
    types: int = 2
    """Rows of the table of segment types."""
    eps: float = 1e-12
    """Added to the variance in every norm."""
    activation: Activation = "gelu"
    """Activation of the MLP: 'gelu' (exact), 'gelu_new' (by tanh) or 'relu'."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, the residual stream, norms and softmax stay float32."""
    attention: Attention = "auto"
    """Implementation of attention."""

    def __post_init__(self) -> None:
        sizes = ("vocabulary", "length", "width", "depth", "heads", "hidden", "types")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"Bert.{name} must be at least 1, found {getattr(self, name)}.")
        if self.width % self.heads:
            raise ValueError(f"Bert.width {self.width} is not divisible by its {self.heads} heads.")
        if not self.eps > 0:
            raise ValueError(f"Bert.eps must be positive, found {self.eps}.")
        check_attention(self.attention)
        super().__post_init__()

    @nn.compact
    def __call__(self, ids: Int[Array, "b m"], length: Int[Array, "b"]) -> Float[Array, "b m width"]:
        """Features of each token, float32. Ids below 0 and those after `length` are padding, which nothing attends to.

        Raises ValueError for rows of more ids than there are positions.
        """
        m = ids.shape[1]
        if m > self.length:
            raise ValueError(f"Bert has positions for {self.length} tokens, found rows of {m}.")
        table = declare(self, "tokens", normal(0.02), (self.vocabulary, self.width), ("vocab", "embed"))
        positions = declare(self, "positions", normal(0.02), (self.length, self.width), (None, "embed"))
        types = declare(self, "types", normal(0.02), (self.types, self.width), (None, "embed"))
        x = table[jnp.maximum(ids, 0)] + positions[:m] + types[0]
        x = constrain(x.astype(jnp.float32), "batch", "length", "embed")
        x = AffineNorm(self.eps, name="norm")(x)
        stop = jnp.broadcast_to(length[:, None], ids.shape)
        visible = jnp.stack([jnp.zeros_like(stop), stop], axis=-1)
        stack = nn.scan(
            BertBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast,),  # pyright: ignore[reportArgumentType]
            length=self.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        dtype = jnp.dtype(self.dtype)
        blocks = stack(self.heads, self.hidden, self.activation, self.eps, dtype, self.attention, name="blocks")
        x, _ = blocks(x, visible)
        return x
