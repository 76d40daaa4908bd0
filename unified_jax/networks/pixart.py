r"""PixArt (Chen et al. 2023, arXiv 2310.00426): a DiT with one modulation for all blocks, which reads a text.

    e   = time(t) + sizes + labels + vectors
    m   = W SiLU(e) + b                                     six rows: shift, scale, gate of both branches
    y   = W2 gelu(W1 text + b1) + b2                        each token of the text

    block   shift1, scale1, gate1, shift2, scale2, gate2 = S + m                        S: the block's own table
            x = x + gate1 * Attention(LN(x) (1 + scale1) + shift1)
            x = x + CrossAttention(x, y)                    no norm, no modulation; its projection is zero at the start
            x = x + gate2 * MLP(LN(x) (1 + scale2) + shift2)
    out     Linear(LN(x) (1 + scale) + shift),   shift, scale = S' + e

Sizes (the picture's height and width, its aspect ratio) are numbers, each the sinusoid of 256 features and an MLP to a
third of the width. Positions are sin-cos of places that are scaled to a base grid: i base / n / `stretch`, so that
pictures of other sizes cover the same range. The last blocks may compress keys and values (`networks.pixart_block`).
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.kernels.elementwise import activate
from unified_jax.layers.conditions import VectorEmbedding, filled, key_range, weighted
from unified_jax.layers.embeddings import LabelEmbedding, TimeEmbedding, sinusoid
from unified_jax.layers.form import ConditionInput, Kind, NoisyInput, only_stream
from unified_jax.layers.init import declare, normal, zeros
from unified_jax.layers.mlp import Dense
from unified_jax.layers.modulation import modulated_norm
from unified_jax.layers.remat import Remat, rematerialised
from unified_jax.modalities.grid import grid_of
from unified_jax.networks.dit import captured_blocks
from unified_jax.networks.encoder_blocks import Activation
from unified_jax.networks.pixart_block import Memory, PixArtBlock
from unified_jax.sharding import constrain

SIZES = 3
"""Numbers of all scalar conditions together: height, width, aspect ratio."""


class PixArt(nn.Module):
    """A diffusion transformer over one sequence of tokens, by default PixArt-alpha's XL/2."""

    depth: int = 28
    """Number of blocks."""
    width: int = 1152
    """Features of the residual stream."""
    heads: int = 16
    """Attention heads; must divide width."""
    mlp_ratio: float = 4.0
    """Hidden features of the MLP, as a multiple of width."""
    base: int = 0
    """Rows and columns of the grid to which positions are scaled; 0: the array's own."""
    stretch: float = 1.0
    """What positions are divided by: 1 up to 512 pixels, 2 at 1024."""
    bias: bool = True
    """Whether queries, keys and values have biases."""
    eps: float = 1e-6
    """Added to the variance in the norms of blocks."""
    activation: Activation = "gelu_tanh"
    """Activation of the MLP."""
    compress: int = 1
    """Side of the squares of which attention keeps one key and value (Sigma: 2 above 1024 pixels); 1: all."""
    compressed: int = 0
    """Last blocks that compress their keys and values (Sigma: 14 of 28)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, norms, softmax and modulation stay float32."""
    attention: Attention = "auto"
    """Implementation of attention."""
    remat: Remat = "dots"
    """Rematerialisation: what the backward pass keeps of a block (`layers.remat`)."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"PixArt.width {self.width} must be divisible by its {self.heads} heads, and by 4.")
        if self.depth < 1 or self.base < 0:
            raise ValueError(
                f"PixArt needs a depth of at least 1 and no negative base, found {self.depth}, {self.base}."
            )
        if not (self.stretch > 0 and self.eps > 0):
            raise ValueError(f"PixArt.stretch and eps must be positive, found {self.stretch}, {self.eps}.")
        if self.compress < 1 or not 0 <= self.compressed <= self.depth:
            raise ValueError(f"PixArt compresses the last 0 .. {self.depth} blocks, found {self.compressed}.")
        check_attention(self.attention)
        super().__post_init__()

    takes: ClassVar[tuple[Kind, ...]] = ("tokens", "label", "vector", "scalars")
    streams: ClassVar[Literal["one"]] = "one"
    weighs: ClassVar[bool] = True

    @nn.compact
    def __call__(
        self,
        noisy: tuple[NoisyInput, ...],
        conditions: tuple[ConditionInput, ...] = (),
        *,
        layout: Any = None,
        capture: tuple[str, ...] = (),
    ) -> tuple[dict[str, Float[Array, "b ..."]], dict[str, Array]]:
        """See `Backbone`. captured["attention"] is `[layers, b, h, n, n]`, captured["block/3"] `[b, n, d]`."""
        kept = captured_blocks(capture, self.depth)
        dtype = jnp.dtype(self.dtype)
        one = only_stream("PixArt", noisy, layout)
        form = one.form
        given = tuple(filled(self, shown) for shown in conditions)
        e = TimeEmbedding(self.width, name="time")(one.t) + self._added(given)
        m = Dense(6 * self.width, ("embed", "mlp"), normal(0.02), name="modulation")(jax.nn.silu(e))
        m = constrain(m, "batch", "embed").reshape(len(e), 6, self.width)
        tokens = constrain(form.patches(one.x), "batch", "length", "patch")
        x = Dense(self.width, ("patch", "embed"), dtype=dtype, name="patch")(tokens)
        grid = grid_of(form.shape[:-1], form.cut)
        places = positions(self.width, grid, self.base, self.stretch)
        x = constrain(x + jnp.asarray(places).astype(dtype), "batch", "length", "embed")
        texts = [shown for shown in given if shown.form.kind == "tokens"]
        memories = tuple((self._text(shown), key_range(shown, x.shape[1])) for shown in texts)
        names = tuple(shown.form.name for shown in texts)
        x, found = self._blocks(x, m, names, memories, grid, "attention" in capture, bool(kept))
        table = declare(self, "final_table", normal(self.width**-0.5), (2, self.width), (None, "embed"))
        shift, scale = jnp.split(constrain(table + e[:, None], "batch", None, "embed"), 2, axis=1)
        h = modulated_norm(x, shift, scale)
        out = Dense(form.out_features, ("embed", "patch"), zeros, name="final")(h)
        captured = {name: found["hidden"][i] for name, i in kept.items()}
        captured |= {"attention": found["attention"]} if "attention" in capture else {}
        return {form.name: form.unpatch(out.astype(jnp.float32))}, captured

    def _added(self, given: tuple[ConditionInput, ...]) -> Float[Array, "b d"] | float:
        """What is added to the embedding of time. Raises ValueError for other numbers of scalars than three."""
        total: Any = 0.0
        labels = [shown for shown in given if shown.form.kind == "label"]
        for i, label in enumerate(labels):
            total += weighted(label, LabelEmbedding(label.form.features, self.width, name=f"label_{i}")(label.value))
        for shown in (one for one in given if one.form.kind == "vector"):
            total += weighted(shown, VectorEmbedding(self.width, name=f"vector_{shown.form.name}")(shown.value))
        sizes = [shown for shown in given if shown.form.kind == "scalars"]
        if not sizes:
            return total
        count = sum(shown.value.shape[1] for shown in sizes)
        if count != SIZES or self.width % SIZES:
            raise ValueError(f"PixArt reads {SIZES} sizes, each to a third of its width; found {count}, {self.width}.")
        parts = []
        for shown in sizes:
            h = sinusoid(shown.value)
            h = Dense(self.width // SIZES, (None, "embed"), name=f"{shown.form.name}_fc1")(h)
            h = Dense(self.width // SIZES, ("embed", "mlp"), name=f"{shown.form.name}_fc2")(jax.nn.silu(h))
            parts.append(weighted(shown, h.reshape(len(h), -1)))
        return total + jnp.concatenate(parts, axis=-1)

    def _text(self, shown: ConditionInput) -> Float[Array, "b m d"]:
        name, dtype = f"text_{shown.form.name}", jnp.dtype(self.dtype)
        h = Dense(self.width, (None, "mlp"), dtype=dtype, name=f"{name}_fc1")(shown.value)
        h = activate(jax.nn.gelu, h)
        return Dense(self.width, ("mlp", "embed"), dtype=dtype, name=f"{name}_fc2")(h)

    def _blocks(
        self, x: Array, m: Array, names: tuple[str, ...], memories: tuple[Memory, ...], grid: tuple[int, ...],
        attention: bool, hidden: bool,
    ) -> tuple[Array, dict[str, Array]]:  # fmt: skip
        """(x after all blocks, captured). Raises ValueError for a grid or a capture that compression cannot serve."""
        last = self.compressed if self.compress > 1 else 0
        if last and (attention or any(size % self.compress for size in grid)):
            raise ValueError(
                f"PixArt compresses squares of {self.compress} of a grid that they divide, and captures no attention "
                f"then; found a grid of {' x '.join(map(str, grid))}."
            )
        found = []
        for name, depth, compress in (("blocks", self.depth - last, 1), ("compressed_blocks", last, self.compress)):
            if depth:
                stack = self._stack(name, depth, names, compress, (grid[0], grid[1]))
                x, captured = stack(x, m, memories, attention, hidden)
                found.append(captured)
        return x, {name: jnp.concatenate([captured[name] for captured in found]) for name in found[0]}

    def _stack(self, name: str, depth: int, names: tuple[str, ...], compress: int, grid: tuple[int, int]) -> Any:
        broadcast: Any = (nn.broadcast,) * 4
        stack = nn.scan(
            rematerialised(PixArtBlock, self.remat, static=(4, 5)),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=broadcast,
            length=depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return stack(
            self.heads, self.mlp_ratio, self.bias, self.eps, self.activation, jnp.dtype(self.dtype), self.attention,
            names, compress, grid, name=name,
        )  # fmt: skip


def positions(width: int, sizes: tuple[int, ...], base: int, stretch: float) -> Float[np.ndarray, "n d"]:
    """The sin-cos table `[rows * columns, width]`, float32: columns first, each [sin, cos].

    Raises ValueError for a grid that has not two axes.
    """
    if len(sizes) != 2:
        raise ValueError(f"PixArt denoises pictures; found a grid of {len(sizes)} axes.")
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width / 4))
    parts = []
    for size in sizes:
        angles = (np.arange(size) / (size / (base or size)) / stretch)[:, None] * frequencies
        parts.append(np.concatenate([np.sin(angles), np.cos(angles)], axis=-1))
    rows, columns = (np.broadcast_to(p, (*sizes, width // 2)) for p in (parts[0][:, None], parts[1][None]))
    return np.concatenate([columns, rows], axis=-1).reshape(-1, width).astype(np.float32)
