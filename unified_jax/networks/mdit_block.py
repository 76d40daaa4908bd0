"""The block of MDTv2: DiT's with adaLN-Zero, relative positions on the attention logits, and what it joins."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unified_jax.kernels import choice
from unified_jax.kernels.choice import Attention
from unified_jax.kernels.inputs import Modulation, OutWeights, QkvWeights, Visible
from unified_jax.layers.init import declare, normal, xavier, zeros
from unified_jax.layers.mlp import Dense, Mlp
from unified_jax.layers.modulation import ModulationRows, modulated_norm
from unified_jax.sharding import constrain

SPECIAL = 3
"""Entries of BEiT's tables for a class token, which is not there: they stay unused."""


def relative_index(rows: int, columns: int) -> Int[np.ndarray, "n n"]:
    """The entry of a table of (2 rows - 1)(2 columns - 1) offsets, for each pair (query, key) of a grid."""
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)
    apart = places[:, None] - places[None] + (rows - 1, columns - 1)
    return apart[..., 0] * (2 * columns - 1) + apart[..., 1]


class MditBlock(nn.Module):
    """One block."""

    heads: int
    mlp_ratio: float
    grid: tuple[int, int]
    """Rows and columns of tokens."""
    dtype: jnp.dtype
    attention: Attention
    joins: bool = False
    """Whether it begins by joining tokens that were kept."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        kept: Float[Array, "b n d"] | None,
        c: Float[Array, "b 1 d"],
        places: Int[Array, "b n"] | None = None,
        visible: Visible | None = None,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b n d"] | None]:
        """(x, x to keep); `places` are the tokens' places on the grid, None for all of them in order."""
        d = x.shape[-1]
        if kept is not None:
            joined = jnp.concatenate([x, kept], axis=-1)
            x = Dense(d, (None, "embed"), dtype=self.dtype, name="join")(joined).astype(x.dtype)
        rows = ModulationRows(6, d, name="modulation")(c)
        x = self._attended(x, Modulation(rows[0], rows[1], rows[2]), places, visible)
        h = Mlp(int(d * self.mlp_ratio), self.dtype, name="mlp")(modulated_norm(x, rows[3], rows[4]))
        x = constrain(x + (rows[5] * h).astype(x.dtype), "batch", "length", "embed")
        return x, (None if self.joins else x)

    def _attended(self, x: Array, modulation: Modulation, places: Array | None, visible: Visible | None) -> Array:
        d, e = x.shape[-1], x.shape[-1] // self.heads
        shape = (d, self.heads, 3, e)
        kernel = declare(self, "qkv_kernel", xavier(d, 3 * d), shape, ("embed", "heads", None, "head_dim"))
        bias = declare(self, "qkv_bias", zeros, shape[1:], ("heads", None, "head_dim"))
        weights = QkvWeights(kernel.astype(self.dtype), bias)
        q, k, v = choice.modulated_qkv(x, modulation, weights, attention=self.attention)
        a, _ = choice.attend(q, k, v, visible, self._relative(len(x), places), attention=self.attention)
        out = declare(self, "out_kernel", xavier(d, d), (self.heads, e, d), ("heads", "head_dim", "embed"))
        back = OutWeights(out.astype(self.dtype), declare(self, "out_bias", zeros, (d,), ("embed",)))
        return choice.gated_out(x, a, back, modulation.gate, attention=self.attention)

    def _relative(self, batch: int, places: Array | None) -> Float[Array, "b h n n"]:
        """The bias of each pair of tokens."""
        rows, columns = self.grid
        entries = (2 * rows - 1) * (2 * columns - 1) + SPECIAL
        table = declare(self, "relative", normal(0.02), (entries, self.heads), (None, "heads"))
        index = jnp.asarray(relative_index(rows, columns))
        if places is None:
            found = jnp.moveaxis(table[index], -1, 0)
            return jnp.broadcast_to(found, (batch, *found.shape))
        pairs = index[places[:, :, None], places[:, None, :]]
        return jnp.moveaxis(table[pairs], -1, 1)
