r"""The Transfusion trunk (Zhou et al. 2024, arXiv 2408.11039): one Llama-like transformer over text and patches.

    x   = table[ids] for text, embedded patches (+ time) for a span
    x  += Attention(rms(x))          rotary positions of three axes, each token has a key range
    x  += SwiGLU(rms(x))
    logits = rms(x) W_text,          output of a span = its embedder's decoding of rms(x)

Embedders (`layers.embedders`) are linear, W_m + b_m in and out, or deeper, with skips around the trunk.

With `modulated` every token's norms are scaled and shifted, and its branches gated, by the time of its item,

    x += (1 + gate(t)) * Attention(rms(x) (1 + scale(t)) + shift(t))

from a table of one row per item. Text has the zero row, so that for text the trunk is a plain Llama; at initialisation
it is one for all tokens. Without `modulated`, as published, the time is added to the embedded patches.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.kernels.inputs import Modulation, Rotary, Visible
from unified_jax.kernels.reference import normalise
from unified_jax.kernels.xla import modulate, pick_rows
from unified_jax.layers.attention import AttentionHalf, KvCache
from unified_jax.layers.embedders import make_embedder
from unified_jax.layers.embeddings import TimeEmbedding, rotary_positions
from unified_jax.layers.form import Form
from unified_jax.layers.init import declare, normal, ones
from unified_jax.layers.mlp import Dense, SwiGlu
from unified_jax.layers.modulation import ModulationRows
from unified_jax.layers.remat import Remat, computed_once, rematerialised
from unified_jax.sharding import constrain

SIZES: dict[str, tuple[int, int, int]] = {
    "0.16B": (16, 768, 12),
    "0.37B": (24, 1024, 16),
    "0.76B": (24, 1536, 24),
    "1.4B": (24, 2048, 16),
    "7B": (32, 4096, 32),
}
"""(depth, width, heads) of the published models (table 2)."""


class Tokens(NamedTuple):
    """The tokens of packed rows (`data.packing`)."""

    ids: Int[Array, "b n"]
    """Text ids; -1 in spans."""
    position: Int[Array, "b n 3"]
    visible: Visible
    item: Int[Array, "b n"]
    """Row of `times` that holds the time of a span's token; 0 for text."""


class Spans(NamedTuple):
    """The spans of one modality in a batch: s slots in each row."""

    form: Form
    x: Float[Array, "b s ..."]
    """Network inputs `[*sizes, c]`."""
    start: Int[Array, "b s"]
    """Token of the row at which each begins; -1: absent."""
    row: Int[Array, "b s"]
    """Row of `times` that holds their time."""


class Captured(NamedTuple):
    """Captured values of the blocks, for probes."""

    attention: Float[Array, "*layers b h n n"]
    """Rows are queries and sum to 1 over their visible keys."""
    hidden: Float[Array, "*layers b n d"]
    """The residual stream after each block; the trunk's also has its input in front: layers + 1 in all."""


class Block(nn.Module):
    """One block of the trunk: attention and SwiGLU."""

    heads: int
    kv_heads: int
    hidden: int
    modulated: bool
    eps: float
    dtype: jnp.dtype
    attention: Attention
    bias: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], cache: KvCache | None, c: Float[Array, "b k d"], index: Int[Array, "b n"],
        visible: Visible, rotary: Rotary, capture: bool = False,
    ) -> tuple[Float[Array, "b n d"], KvCache | Captured | None]:  # fmt: skip
        """(x, cache after these tokens, or with `capture` the captured values)."""
        first = second = None
        if self.modulated:
            there = (jnp.arange(c.shape[1]) > 0)[None, :, None]
            rows = [row * there for row in ModulationRows(6, x.shape[-1], name="modulation")(c)]
            first = Modulation(rows[0], rows[1], 1 + rows[2], index)
            second = Modulation(rows[3], rows[4], 1 + rows[5], index)
        half = AttentionHalf(
            self.heads, self.kv_heads, "rms", affine=True, bias=self.bias, eps=self.eps, dtype=self.dtype,
            attention=self.attention, name="attention",
        )  # fmt: skip
        x, out = half(x, first, visible, rotary, capture, cache)
        x = computed_once(x)
        h = RmsNorm(self.eps, name="norm")(x)
        if second is not None:
            h = modulate(h, second.shift, second.scale, index)
        h = SwiGlu(self.hidden, self.dtype, name="mlp")(h)
        if second is not None and second.gate is not None:
            h = pick_rows(second.gate, index) * h
        x = computed_once(constrain(x + h.astype(x.dtype), "batch", "length", "embed"))
        return x, Captured(out["attention"], x) if capture else out.get("cache")


class RmsNorm(nn.Module):
    """x / rms(x) with a learned gain, float32."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
        """The normalised x."""
        return normalise(x, "rms", self.eps) * declare(self, "gain", ones, x.shape[-1:], ("embed",))


class Trunk(nn.Module):
    """The trunk with its embeddings and heads."""

    depth: int = 6
    """Number of blocks."""
    width: int = 192
    """Features of the residual stream."""
    heads: int = 4
    """Attention heads; must divide width."""
    kv_heads: int = 0
    """Key/value heads; 0: as many as heads."""
    hidden: int = 0
    """Hidden features of the MLP; 0: 8/3 of the width, rounded up to a multiple of 256 (32 below 768)."""
    modulated: bool = True
    """Whether time enters by modulation; else it is added to the patches (as published)."""
    theta: float = 10000.0
    """Base of the rotary frequencies."""
    eps: float = 1e-5
    """Epsilon of the norms."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype."""
    attention: Attention = "auto"
    """Implementation of attention."""
    remat: Remat = "dots"
    """Rematerialisation: what the backward pass recomputes (`layers.remat`)."""
    unroll: int = 1
    """Blocks per step of the scan."""
    bias: bool = False
    """Biases in the attention projections."""

    def __post_init__(self) -> None:
        kv = self.kv_heads or self.heads
        if self.width % self.heads or self.heads % kv or (self.width // self.heads) % 2:
            raise ValueError(
                f"Trunk needs a width divisible into {self.heads} heads of even size, and heads divisible by "
                f"{kv} kv_heads; found width {self.width}."
            )
        if self.depth < 1 or self.unroll < 1:
            raise ValueError(f"Trunk needs depth and unroll of at least 1, found {self.depth} and {self.unroll}.")
        check_attention(self.attention)
        super().__post_init__()

    @property
    def hidden_features(self) -> int:
        """Hidden features of the MLP."""
        step = 256 if self.width >= 768 else 32
        return self.hidden or -(-8 * self.width // 3 // step) * step

    @nn.compact
    def __call__(
        self, tokens: Tokens, spans: tuple[Spans, ...], times: Float[Array, "b k"], cache: KvCache | None = None,
        *, vocabulary: int, capture: bool = False,
    ) -> tuple[Float[Array, "b n v"], dict[str, Float[Array, "b s ..."]], KvCache | Captured | None]:  # fmt: skip
        """(logits, {name: output `[*sizes, c']` of its spans}, cache, or with `capture` the captured values).

        times    `Process.network_time` of each item of a row; row 0 is that of text and is ignored
        cache    for generation: `[layers, b, ...]`; the tokens then continue its sequences
        capture  forces the reference attention; complete rows only, without a cache
        """
        if capture and cache is not None:
            raise ValueError("Trunk captures complete rows only: leave out capture or the cache.")
        dtype = jnp.dtype(self.dtype)
        table = declare(self, "table", normal(0.02), (vocabulary, self.width), ("vocab", "embed"))
        written = tokens.ids >= 0
        x = jnp.where(written[..., None], table[jnp.maximum(tokens.ids, 0)], 0.0).astype(dtype)
        c = TimeEmbedding(self.width, name="time")(times.reshape(-1)).reshape(*times.shape, self.width)
        embedders, kept = [make_embedder(span.form) for span in spans], []
        for span, embedder in zip(spans, embedders, strict=True):
            time = jnp.take_along_axis(c, span.row[..., None], axis=1).reshape(-1, self.width)
            h, skips = embedder.encode(span.x.reshape((-1, *span.x.shape[2:])), time, self.width, dtype)
            x = put(x, h.reshape(*span.start.shape, *h.shape[1:]), span.start)
            kept.append((skips, time))
        index = jnp.where(written, 0, tokens.item)
        if not self.modulated:
            there = (jnp.arange(c.shape[1]) > 0)[None, :, None]
            x = x + pick_rows(c * there, index).astype(dtype)
        x = constrain(x, "batch", "length", "embed")
        rotary = rotary_positions(tokens.position, self.width // self.heads, self.theta)
        x, rest = self._blocks(x, cache, c, index, tokens.visible, rotary, capture)
        h = RmsNorm(self.eps, name="final_norm")(x)
        logits = Dense(vocabulary, ("embed", "vocab"), normal(0.02), dtype, bias=False, name="logits")(h)
        outputs = {}
        for span, embedder, (skips, time) in zip(spans, embedders, kept, strict=True):
            own = take(h, span.start, span.form.tokens)
            y = embedder.decode(own.reshape((-1, *own.shape[2:])), skips, time)
            outputs[span.form.name] = y.reshape(*span.start.shape, *y.shape[1:])
        return logits.astype(jnp.float32), outputs, rest

    def _blocks(
        self, x: Array, cache: KvCache | None, c: Array, index: Array, visible: Array, rotary: Rotary, capture: bool
    ) -> tuple[Array, KvCache | Captured | None]:
        block = rematerialised(Block, self.remat if cache is None else "none", static=(7,))
        stack = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, *(nn.broadcast,) * 5),  # type: ignore[arg-type]
            length=self.depth,
            unroll=min(self.unroll, self.depth),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        blocks = stack(
            self.heads, self.kv_heads or self.heads, self.hidden_features, self.modulated, self.eps,
            jnp.dtype(self.dtype), self.attention, self.bias, name="blocks",
        )  # fmt: skip
        y, rest = blocks(x, cache, c, index, visible, rotary, capture)
        if capture:
            rest = rest._replace(hidden=jnp.concatenate([x[None], rest.hidden]))
        return y, rest


def put(x: Float[Array, "b n d"], h: Float[Array, "b s k d"], start: Int[Array, "b s"]) -> Float[Array, "b n d"]:
    """x with each span's h written at its start; absent spans (-1) are skipped."""
    n, k = x.shape[1], h.shape[2]
    index = jnp.where(start[..., None] >= 0, start[..., None] + jnp.arange(k), n).reshape(len(x), -1)
    write = jax.vmap(lambda row, at, new: row.at[at].set(new, mode="drop", unique_indices=False))
    return write(x, index, h.reshape(len(x), -1, h.shape[-1]).astype(x.dtype))


def take(x: Float[Array, "b n d"], start: Int[Array, "b s"], k: int) -> Float[Array, "b s k d"]:
    """The tokens of each span; zeros for an absent span."""
    index = jnp.where(start[..., None] >= 0, start[..., None] + jnp.arange(k), x.shape[1]).reshape(len(x), -1)
    read = jax.vmap(lambda row, at: row.at[at].get(mode="fill", fill_value=0))
    return read(x, index).reshape(*start.shape, k, x.shape[-1])


def trunk_preset(size: Literal["0.16B", "0.37B", "0.76B", "1.4B", "7B"], modulated: bool = False) -> Trunk:
    """A published size, bfloat16."""
    depth, width, heads = SIZES[size]
    return Trunk(depth=depth, width=width, heads=heads, modulated=modulated, dtype="bfloat16", remat="full")


preset = trunk_preset
"""Its name in version 0.1."""
