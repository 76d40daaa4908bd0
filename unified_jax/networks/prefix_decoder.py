r"""A decoder of texts from a prefix of latents: GPT-2 behind them, as UniDiffuser reads captions (Bao et al. 2023).

    z       W_e f (+ b),  f a token of a text encoder         one latent a token; or
            W_e (q + Attention(q, f)) + b                     `slots` latents, from as many learned queries
    prefix  W_d z + b                                         in the place of the first tokens of GPT-2
    x       x + Attention(LN(x));  x = x + MLP(LN(x))         causal; positions count prefix and text together
    logits  LN(x) E^T                                         E is the table of tokens

The last token id ends a text. With `normalise`, z is LN(z) without a gain: of unit size, whatever is trained, so that
noise on it is of known strength. LayerNorms have eps 1e-5; GELU is the one by tanh.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.kernels.inputs import Visible
from unified_jax.kernels.reference import normalise
from unified_jax.layers.attention import AttentionHalf, CrossAttentionHalf, KvCache
from unified_jax.layers.init import declare, normal
from unified_jax.layers.mlp import Dense
from unified_jax.layers.modulation import AffineNorm
from unified_jax.networks.encoder_blocks import EncoderMlp, prefix_range
from unified_jax.precision import EXACT
from unified_jax.sharding import constrain
from unified_jax.typing import Params

EPS = 1e-5


class GptBlock(nn.Module):
    """One block, with a cache or without."""

    heads: int
    hidden: int
    dtype: jnp.dtype
    attention: Attention

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], cache: KvCache | None, visible: Visible
    ) -> tuple[Float[Array, "b n d"], KvCache | None]:
        """(x after the block, its cache), as a scan takes it."""
        half = AttentionHalf(
            self.heads, affine=True, eps=EPS, dtype=self.dtype, attention=self.attention, name="attention"
        )
        x, found = half(x, None, visible, cache=cache)
        h = AffineNorm(EPS, name="mlp_norm")(x)
        x = x + EncoderMlp(self.hidden, "gelu_tanh", dtype=self.dtype, name="mlp")(h).astype(x.dtype)
        return constrain(x, "batch", "length", "embed"), found.get("cache")


class PrefixDecoder(nn.Module):
    """Latents of texts, and texts of latents."""

    vocabulary: int = 50257
    """Number of token ids; the last of them ends a text."""
    length: int = 1024
    """Rows of the table of positions: prefix and text together."""
    width: int = 768
    """Features of the residual stream."""
    depth: int = 12
    """Number of blocks."""
    heads: int = 12
    """Attention heads; must divide width."""
    hidden: int = 3072
    """Hidden features of the MLP."""
    latents: int = 64
    """Numbers of a latent."""
    slots: int = 0
    """Latents of a text; 0: one for each of its encoder's tokens."""
    normalise: bool = False
    """Whether each latent has mean 0 and variance 1."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, the residual stream, norms and softmax stay float32."""
    attention: Attention = "auto"
    """Implementation of attention."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "length", "width", "depth", "heads", "hidden", "latents"):
            if getattr(self, name) < 1:
                raise ValueError(f"PrefixDecoder.{name} must be at least 1, found {getattr(self, name)}.")
        if self.width % self.heads or self.slots < 0:
            raise ValueError(
                f"PrefixDecoder.width {self.width} must be divisible by its {self.heads} heads, and slots not "
                f"negative, found {self.slots}."
            )
        check_attention(self.attention)
        super().__post_init__()

    def setup(self) -> None:
        """The modules that encode and decode share."""
        dtype = jnp.dtype(self.dtype)
        self.to_latents = Dense(self.latents, ("embed", None), dtype=dtype)
        self.to_prefix = Dense(self.width, (None, "embed"), dtype=dtype)
        if self.slots:
            self.pooling = CrossAttentionHalf(self.heads, EPS, dtype, self.attention)
            self.queries = declare(self, "queries", normal(0.02), (self.slots, self.width), (None, "embed"))
        self.tokens = declare(self, "tokens", normal(0.02), (self.vocabulary, self.width), ("vocab", "embed"))
        self.positions = declare(self, "positions", normal(0.01), (self.length, self.width), (None, "embed"))
        stack = nn.scan(
            GptBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),  # pyright: ignore[reportArgumentType]
            length=self.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        self.blocks = stack(self.heads, self.hidden, dtype, self.attention)
        self.norm = AffineNorm(EPS)

    def encode(
        self, features: Float[Array, "b m f"], length: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s latents"]:
        """The latents of an encoder's tokens, of which the first `length` are there (None: all)."""
        x = features
        if self.slots:
            queries = jnp.broadcast_to(self.queries, (len(x), *self.queries.shape))
            x = self.pooling(queries, x, None if length is None else _first(length, self.slots))
        z = self.to_latents(x).astype(jnp.float32)
        return normalise(z, "layer", EPS) if self.normalise else z

    def __call__(
        self, features: Float[Array, "b m f"], length: Int[Array, "b"] | None, ids: Int[Array, "b n"]
    ) -> Float[Array, "b n1 v"]:
        """The logits of a text behind its own latents."""
        return self.logits(self.encode(features, length), ids)

    def logits(self, z: Float[Array, "b s latents"], ids: Int[Array, "b n"]) -> Float[Array, "b n1 v"]:
        """Next-token logits after the prefix and after each token; ids below 0 are padding behind a text.

        Raises ValueError for more tokens than there are positions.
        """
        s, total = z.shape[1], z.shape[1] + ids.shape[1]
        if total > self.length:
            raise ValueError(f"PrefixDecoder has positions for {self.length} tokens, found {s} and {ids.shape[1]}.")
        words = self.tokens[jnp.maximum(ids, 0)]
        x = jnp.concatenate([self.to_prefix(z).astype(jnp.float32), words], axis=1) + self.positions[:total]
        visible: Any = prefix_range(None, len(x), total, causal=True)
        x, _ = self.blocks(constrain(x, "batch", "length", "embed"), None, visible)
        return self._scores(x[:, s - 1 :])

    def start(self, z: Float[Array, "b s latents"], room: int) -> tuple[Float[Array, "b v"], KvCache]:
        """(logits of the first token, the blocks' caches with room for `room` further tokens)."""
        b, s, _ = z.shape
        shape = (self.depth, b, s + room, self.heads, self.width // self.heads)
        blank = jnp.zeros(shape, jnp.dtype(self.dtype))
        cache = KvCache(blank, blank, jnp.zeros((self.depth, b), jnp.int32))
        x = self.to_prefix(z).astype(jnp.float32) + self.positions[:s]
        return self._read(x, 0, cache)

    def step(self, ids: Int[Array, "b"], at: Int[Array, ""], cache: KvCache) -> tuple[Float[Array, "b v"], KvCache]:
        """(logits after one more token, which is the one of position `at`, the caches)."""
        return self._read((self.tokens[jnp.maximum(ids, 0)] + self.positions[at])[:, None], at, cache)

    def _read(self, x: Float[Array, "b n d"], at: Any, cache: KvCache) -> tuple[Float[Array, "b v"], KvCache]:
        b, n, _ = x.shape
        stop = jnp.broadcast_to(at + 1 + jnp.arange(n), (b, n))
        visible = jnp.stack([jnp.zeros_like(stop), stop], axis=-1)
        cache = cache._replace(at=jnp.full_like(cache.at, at))
        after: Any = self.blocks(x, cache, visible)
        return self._scores(after[0][:, -1:])[:, 0], after[1]

    def _scores(self, x: Float[Array, "b n d"]) -> Float[Array, "b n v"]:
        return jnp.matmul(self.norm(x), self.tokens.T, precision=EXACT)


def write_text(network: PrefixDecoder, params: Params, z: Float[Array, "b s latents"], n: int) -> Int[Array, "b n"]:
    """The likeliest tokens behind latents, one after the other from a cache; -1 from the end of each text on."""
    variables, end = {"params": params}, network.vocabulary - 1
    first, cache = network.apply(variables, z, n, method="start")

    def write(carry: Any, i: Array) -> tuple[Any, Array]:
        logits, cache, ended = carry
        ids = jnp.argmax(logits, axis=-1)
        ended = ended | (ids == end)
        after: Any = network.apply(variables, ids, z.shape[1] + i, cache, method="step")
        return (*after, ended), jnp.where(ended, -1, ids)

    _, ids = jax.lax.scan(write, (first, cache, jnp.zeros(len(z), bool)), jnp.arange(n))
    return ids.T.astype(jnp.int32)


def _first(length: Int[Array, "b"], queries: int) -> Visible:
    """Every query sees the first `length` tokens."""
    stop = jnp.broadcast_to(length[:, None], (len(length), queries))
    return jnp.stack([jnp.zeros_like(stop), stop], axis=-1)
