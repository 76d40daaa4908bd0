r"""MMDiT (Esser et al. 2024, "Scaling Rectified Flow Transformers"): Stable Diffusion 3 and 3.5.

    c      = time(t) + labels + MLP(pooled text)
    image  = patches W + b + sincos(positions)         text = tokens W' + b'
    blocks over both (`joint_blocks`), the last of which only reads the text
    out    = Linear(LN(image) (1 + scale) + shift),    scale, shift = Linear(SiLU(c))

Positions are those of a square of `grid` patches, from whose middle a smaller image is cut, in units in which the
training image has `base` patches. Several texts of equal features are joined in order. Without a text the network is a
DiT with labels. Blocks of one kind in a row are stacked under `blocks_FIRST`, FIRST the number of their first.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.layers.conditions import filled
from unified_jax.layers.form import ConditionInput, Kind, NoisyInput, only_stream
from unified_jax.layers.init import zeros
from unified_jax.layers.mlp import Dense
from unified_jax.layers.modulation import ModulationRows, modulated_norm
from unified_jax.layers.remat import Remat, rematerialised
from unified_jax.modalities.grid import grid_of
from unified_jax.networks.dit import captured_blocks
from unified_jax.networks.joint_blocks import JointBlock, Streams, Summary, Told, joined_tokens
from unified_jax.sharding import constrain


class MMDiT(nn.Module):
    """A transformer over an image and a text, each with its own weights."""

    depth: int = 24
    """Number of blocks."""
    width: int = 1536
    """Features of both streams."""
    heads: int = 24
    """Attention heads; must divide width."""
    mlp_ratio: float = 4.0
    """Hidden features of the MLPs, as a multiple of width."""
    qk_norm: bool = False
    """RMS norm of queries and keys."""
    dual: tuple[int, ...] = ()
    """Blocks with a second attention over the image alone."""
    skip: tuple[int, ...] = ()
    """Blocks that are skipped: a copy of the network with some is what skip-layer guidance points away from."""
    grid: int = 192
    """Patches along a side of the table of positions: the largest image."""
    base: int = 64
    """Patches along a side of the training image."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, norms, softmax and modulation stay float32."""
    attention: Attention = "auto"
    """Implementation of attention."""
    remat: Remat = "dots"
    """Rematerialisation: what the backward pass keeps of a block (`layers.remat`)."""

    def __post_init__(self) -> None:
        if min(self.depth, self.width, self.heads, self.grid, self.base) < 1:
            raise ValueError(f"MMDiT: depth, width, heads, grid and base must be at least 1, found {self}.")
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"MMDiT.width {self.width} must be divisible by 4 and by its {self.heads} heads.")
        for name in ("dual", "skip"):
            if any(not 0 <= i < self.depth for i in getattr(self, name)):
                raise ValueError(f"MMDiT.{name} names blocks 0 .. {self.depth - 1}, found {getattr(self, name)}.")
        check_attention(self.attention)
        super().__post_init__()

    takes: ClassVar[tuple[Kind, ...]] = ("label", "vector", "scalars", "tokens")
    streams: ClassVar[Literal["one"]] = "one"
    weighs: ClassVar[bool] = True

    def runs(self) -> list[tuple[int, int, bool, bool]]:
        """(first, end, dual, last) of blocks of one kind in a row."""
        kinds = [(i in self.dual, i + 1 == self.depth) for i in range(self.depth)]
        starts = [i for i in range(self.depth) if i == 0 or kinds[i] != kinds[i - 1]]
        return [(a, b, *kinds[a]) for a, b in zip(starts, [*starts[1:], self.depth], strict=True)]

    @nn.compact
    def __call__(
        self,
        noisy: tuple[NoisyInput, ...],
        conditions: tuple[ConditionInput, ...] = (),
        *,
        layout: Any = None,
        capture: tuple[str, ...] = (),
    ) -> tuple[dict[str, Float[Array, "b ..."]], dict[str, Array]]:
        """See `Backbone`. captured["block/3"] holds the image's tokens `[b, n, d]`."""
        if "attention" in capture:
            raise ValueError("MMDiT captures tokens after blocks, not attention.")
        kept, dtype = captured_blocks(capture, self.depth), jnp.dtype(self.dtype)
        one = only_stream("MMDiT", noisy, layout)
        form = one.form
        given = tuple(filled(self, shown) for shown in conditions)
        x = constrain(form.patches(one.x), "batch", "length", "patch")
        x = Dense(self.width, ("patch", "embed"), dtype=dtype, name="patch")(x)
        sizes = grid_of(form.shape[:-1], form.cut)
        x = x + jnp.asarray(position_table(self.width, self.grid, self.base, sizes), dtype)
        x = constrain(x, "batch", "length", "embed")
        c = Summary(self.width, name="summary")(one.t, given)
        texts = [shown for shown in given if shown.form.kind == "tokens"]
        text, visible = joined_tokens(texts, self.width, x.shape[1], dtype)
        (x, _), after = self._blocks((x, text), Told(c, visible), bool(kept))
        scale, shift = ModulationRows(2, self.width, name="final_modulation")(c)
        out = Dense(form.out_features, ("embed", "patch"), zeros, name="final")(modulated_norm(x, shift, scale))
        captured = {name: after[i] for name, i in kept.items()}
        return {form.name: form.unpatch(out.astype(jnp.float32))}, captured

    def _blocks(self, streams: Streams, told: Told, hidden: bool) -> tuple[Streams, list[Array]]:
        """(both streams after the blocks, the image after each with `hidden`)."""
        after = []
        for first, end, dual, last in self.runs():
            keep = jnp.asarray([i not in self.skip for i in range(first, end)]) if self.skip else None
            stack = nn.scan(
                rematerialised(JointBlock, self.remat),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(0 if self.skip else nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]
                length=end - first,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            blocks = stack(
                self.heads, self.mlp_ratio, self.qk_norm, dual, last, jnp.dtype(self.dtype), self.attention,
                name=f"blocks_{first}",
            )  # fmt: skip
            streams, found = blocks(streams, keep, told)
            after += list(found) if hidden else []
        return streams, after


RELEASED: dict[str, MMDiT] = {
    "sd3-medium": MMDiT(),
    "sd3.5-medium": MMDiT(qk_norm=True, dual=tuple(range(13)), grid=384),
    "sd3.5-large": MMDiT(depth=38, width=2432, heads=38, qk_norm=True),
}
"""Released networks; their texts have 4096 features, their pooled text 2048."""


def position_table(width: int, grid: int, base: int, sizes: tuple[int, ...]) -> Float[np.ndarray, "n d"]:
    """The sin-cos table `[rows * columns, width]` of the middle of the grid: columns first, float64.

    Raises ValueError for an image that is larger than the grid.
    """
    if len(sizes) != 2 or max(sizes) > grid:
        raise ValueError(f"MMDiT has positions for images of up to {grid} x {grid} patches, found {sizes}.")
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width / 4))
    parts = []
    for size in sizes:
        places = (np.arange(size) + (grid - size) // 2) * base / grid
        angles = places[:, None] * frequencies
        parts.append(np.concatenate([np.sin(angles), np.cos(angles)], axis=-1))
    rows, columns = (np.broadcast_to(p, (*sizes, width // 2)) for p in (parts[0][:, None], parts[1][None]))
    return np.concatenate([columns, rows], axis=-1).reshape(-1, width)
