"""The levels of a U-Net, and the ways down, through the middle and up: functions that add modules to the calling one.

    down_i/residual_j, down_i/attention_j, down_i/change     then  middle/...,     then  up_i/...

up_0 is the level of the smallest map.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.layers.conditions import key_range
from unified_jax.layers.form import ConditionInput
from unified_jax.layers.remat import Remat, rematerialised
from unified_jax.networks.unet.blocks import Downsample, MapAttention, Residual, Size, Style, Upsample
from unified_jax.networks.unet.transformer import SpatialTransformer

Reads = Literal["nothing", "itself", "both", "tokens"]
"""Attention after each residual block: none, over positions, over positions and tokens, or a transformer for both."""
Change = Literal["conv", "residual", "mean"]
"""Change of size between levels: a convolution, a residual block, or means and neighbours without parameters."""


@dataclass(frozen=True)
class Level:
    """The blocks at one size of the map."""

    channels: int = 64
    """Features."""
    layers: int = 2
    """Residual blocks; in a mirrored level there is one more."""
    reads: Reads = "nothing"
    """Attention after each residual block; in the middle, between two."""
    heads: int = 1
    """Attention heads."""
    depth: tuple[int, ...] = (1,)
    """Blocks of each layer's transformer; a single number holds for every layer."""
    change: Change = "conv"
    """How the map changes its size after this level."""
    context_only: bool = False
    """Whether the first attention of its transformers reads tokens too."""

    def __post_init__(self) -> None:
        if not self.depth or min(self.channels, self.layers, self.heads, *self.depth) < 1:
            raise ValueError(f"Level: channels, layers, heads and depth must be at least 1, found {self}.")
        if self.reads != "nothing" and self.channels % self.heads:
            raise ValueError(f"Level.channels {self.channels} is not divisible by its {self.heads} heads.")
        if len(self.depth) not in (1, self.layers):
            raise ValueError(f"Level.depth names 1 or {self.layers} layers, found {self.depth}.")

    def mirrored(self, change: Change) -> "Level":
        """The level of this size on the way up. Raises ValueError for a depth that differs between layers."""
        if len(set(self.depth)) > 1:
            raise ValueError(f"Level.depth {self.depth} cannot be mirrored: name the levels of the way up.")
        return replace(self, layers=self.layers + 1, depth=self.depth[:1], change=change)


class Shared(NamedTuple):
    """What all levels are told."""

    style: Style
    remat: Remat
    emb: Float[Array, "b e"]
    """Embedding of time and conditions."""
    tokens: ConditionInput | None = None
    """Tokens that transformers read."""
    padded: Literal["around", "after"] = "around"
    """Padding of convolutions that halve the map."""


class Residuals(NamedTuple):
    """What is added to a U-Net's maps before its way up."""

    kept: tuple[Float[Array, "b ..."], ...]
    """To each map that is kept on the way down, in their order."""
    middle: Float[Array, "b h w c"]
    """To the map after the middle."""


class Blocks(nn.Module):
    """The residual blocks and attention of one level."""

    level: Level
    style: Style
    remat: Remat = "dots"
    between: bool = False
    """Whether attention stands between residual blocks only."""
    scale: float = 1.0
    """Divides the sum of every block."""
    groups: int | None = None
    """Groups of the attention's norm; None: as everywhere; 0: it has no norm."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], emb: Float[Array, "b e"], tokens: ConditionInput | None = None,
        skips: tuple[Array, ...] = (),
    ) -> tuple[Array, ...]:  # fmt: skip
        """The map after each residual block and its attention; `skips` join their channels, the last one first."""
        level = self.level
        found: list[Array] = []
        for i in range(level.layers):
            if skips:
                x = jnp.concatenate([x, skips[-1 - i].astype(x.dtype)], axis=-1)
            block = rematerialised(Residual, self.remat, static=(3,))
            x = block(level.channels, self.style, "none", self.scale, name=f"residual_{i}")(x, emb, (0, 0))
            if level.reads != "nothing" and not (self.between and i + 1 == level.layers):
                x = self._attention(i, x, tokens)
            found.append(x)
        return tuple(found)

    def _attention(self, i: int, x: Array, tokens: ConditionInput | None) -> Array:
        level, style, name = self.level, self.style, f"attention_{i}"
        if level.reads == "both" and tokens is not None:
            return MapAttention(level.heads, style, eps=1e-5, name=name)(x, tokens.value, tokens.length)
        if level.reads != "tokens":
            return MapAttention(level.heads, style, self.scale, self.groups, name=name)(x)
        depth = level.depth[i % len(level.depth)]
        transformer = SpatialTransformer(level.heads, depth, style, level.context_only, self.remat, name=name)
        if tokens is None:
            return transformer(x)
        return transformer(x, tokens.value, key_range(tokens, x.shape[1] * x.shape[2]))


def descend(
    x: Float[Array, "b h w c"], levels: tuple[Level, ...], shared: Shared
) -> tuple[Float[Array, "b r s k"], list[Array], list[Array]]:
    """(the map of the last level, what every block gave, what every level gave); for a compact method of a module."""
    style, kept, ends = shared.style, [x], []
    for i, level in enumerate(levels):
        kept += Blocks(level, style, shared.remat, name=f"down_{i}")(x, shared.emb, shared.tokens)
        x = kept[-1]
        ends.append(x)
        if i + 1 < len(levels):
            name = f"down_{i}_change"
            if level.change == "residual":
                x = Residual(level.channels, style, "down", name=name)(x, shared.emb)
            else:
                x = Downsample(style, level.change == "conv", shared.padded, name=name)(x)
            kept.append(x)
    return x, kept, ends


def ascend(
    x: Float[Array, "b h w c"], kept: list[Array], levels: tuple[Level, ...], shared: Shared
) -> tuple[Float[Array, "b r s k"], list[Array]]:
    """(the map at full size, what every level gave), from the smallest map; for a compact method of a module."""
    style, ends = shared.style, []
    for i, level in enumerate(levels):
        split = len(kept) - level.layers
        kept, skips = kept[:split], tuple(kept[split:])
        x = Blocks(level, style, shared.remat, name=f"up_{i}")(x, shared.emb, shared.tokens, skips)[-1]
        ends.append(x)
        if i + 1 < len(levels):
            name = f"up_{i}_change"
            size: Size = (kept[-1].shape[1], kept[-1].shape[2])
            if level.change == "residual":
                x = Residual(level.channels, style, "up", name=name)(x, shared.emb, size)
            else:
                x = Upsample(style, level.change == "conv", name=name)(x, size)
    return x, ends


def middle(x: Float[Array, "b h w c"], level: Level, shared: Shared, scale: float, groups: int | None) -> Any:
    """The map after the middle; for a compact method of a module."""
    blocks = Blocks(level, shared.style, shared.remat, True, scale, groups, name="middle")
    return blocks(x, shared.emb, shared.tokens)[-1]
