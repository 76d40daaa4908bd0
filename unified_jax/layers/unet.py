r"""The U-Net around a trunk (Zhou et al. 2024, section 3.2): down blocks to tokens, up blocks back, with skips.

    down   conv, then for each stage  residual block -> skip -> strided conv (twice the features, at most 4 times);
           residual block; the rest of the patch size as patches; linear to the trunk's width
    up     linear from it; residual block; for each stage, last first  repeat, conv, join the skip, residual block;
           norm, SiLU, conv (zero at the start)

A stage halves every axis whose remaining patch size is even. The factors multiply to the patch size, so that there are
as many tokens as patches. Residual blocks are  x + conv(SiLU(norm(conv(SiLU(norm(x))) + W c)))  with c the embedding of
the item's time (Ho et al. 2020).
"""

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.layers.conv import Conv, GroupNorm
from unified_jax.layers.form import Form
from unified_jax.layers.mlp import Dense
from unified_jax.modalities.grid import grid_of, patchify, unpatchify

WIDEST = 4
"""Features of the deepest stage over those of the first."""


def stages_of(cut: tuple[int, ...]) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """(factors of each stage, remaining patch size): (2, 8, 8) is (2, 2, 2), (1, 2, 2), (1, 2, 2) and (1, 1, 1)."""
    factors = []
    while any(size % 2 == 0 for size in cut):
        factors.append(tuple(2 if size % 2 == 0 else 1 for size in cut))
        cut = tuple(size // factor for size, factor in zip(cut, factors[-1], strict=True))
    return factors, cut


@dataclass(frozen=True)
class UNet:
    """An embedder (`layers.embedders`)."""

    form: Form

    def _features(self, stage: int) -> int:
        return self.form.features * min(2**stage, WIDEST)

    def encode(
        self, x: Float[Array, "n ..."], c: Float[Array, "n d"], width: int, dtype: Any
    ) -> tuple[Float[Array, "n k d"], tuple[Array, ...]]:
        """See `Embedder`."""
        name, factors = f"{self.form.name}_in", stages_of(self.form.cut)
        grid = grid_of(x.shape[1:-1], self.form.cut)
        fill = [(0, g * p - s) for g, p, s in zip(grid, self.form.cut, x.shape[1:-1], strict=True)]
        h = Conv(self._features(0), name=f"{name}_first")(jnp.pad(x, [(0, 0), *fill, (0, 0)]))
        skips = []
        for i, factor in enumerate(factors[0]):
            h = ResidualBlock(self._features(i), name=f"{name}_block{i}")(h, c)
            skips.append(h)
            h = Conv(self._features(i + 1), factor, name=f"{name}_down{i}")(h)
        h = ResidualBlock(self._features(len(factors[0])), name=f"{name}_middle")(h, c)
        return Dense(width, ("patch", "embed"), dtype=dtype, name=name)(patchify(h, factors[1])), tuple(skips)

    def decode(
        self, h: Float[Array, "n k d"], skips: tuple[Array, ...], c: Float[Array, "n d"]
    ) -> Float[Array, "n ..."]:
        """See `Embedder`."""
        form, name, (factors, left) = self.form, f"{self.form.name}_out", stages_of(self.form.cut)
        sizes = grid_of(form.shape[:-1], form.cut)
        features = self._features(len(factors))
        y = Dense(math.prod(left) * features, ("embed", "patch"), name=name)(h).astype(jnp.float32)
        y = unpatchify(y, tuple(g * p for g, p in zip(sizes, left, strict=True)), left)
        y = ResidualBlock(features, name=f"{name}_middle")(y, c)
        for i in reversed(range(len(factors))):
            for axis, factor in enumerate(factors[i], start=1):
                y = jnp.repeat(y, factor, axis=axis)
            y = Conv(self._features(i), name=f"{name}_up{i}")(y)
            y = ResidualBlock(self._features(i), name=f"{name}_block{i}")(jnp.concatenate([y, skips[i]], axis=-1), c)
        y = jax.nn.silu(GroupNorm(name=f"{name}_norm")(y))
        y = Conv(form.out_channels, zero=True, name=f"{name}_last")(y)
        return y[(slice(None), *(slice(size) for size in form.shape[:-1]))]


class ResidualBlock(nn.Module):
    """Two convolutions with the time between them; a linear skip if the features change."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "n ..."], c: Float[Array, "n d"]) -> Float[Array, "n ..."]:
        """The output, of the same sizes."""
        h = Conv(self.features, name="conv1")(jax.nn.silu(GroupNorm(name="norm1")(x)))
        shift = Dense(self.features, ("embed", "patch"), name="time")(jax.nn.silu(c))
        h = h + shift.reshape(len(c), *(1,) * (x.ndim - 2), self.features)
        h = Conv(self.features, zero=True, name="conv2")(jax.nn.silu(GroupNorm(name="norm2")(h)))
        if x.shape[-1] != self.features:
            x = Dense(self.features, (None, "patch"), name="beside")(x)
        return x + h
