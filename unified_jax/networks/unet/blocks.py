r"""The parts of a U-Net over maps `[b, h, w, c]`: residual blocks, changes of size, attention over positions.

    residual    h = conv(SiLU(norm(x)))                                     (Ho et al. 2020)
                h = norm(h + W e)            or with `scale_shift`          (Nichol and Dhariwal 2021)
                h = norm(h) (1 + scale) + shift,   [scale, shift] = W e
                out = (skip(x) + conv(SiLU(h))) / s
    attention   x + W softmax(q k^T / sqrt(d)) v,   q, k, v of norm(x)

e is SiLU of the embedding of time and conditions. A residual block may change the size of its map: a mean over 2 x 2,
or nearest neighbours, before its first convolution and on its skip (Song et al. 2021, "BigGAN" blocks).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels import choice
from unified_jax.kernels.elementwise import activate, add_bias
from unified_jax.kernels.inputs import OutWeights, QkvWeights
from unified_jax.kernels.product import einsum
from unified_jax.layers.conv import Conv, GroupNorm
from unified_jax.layers.init import declare, xavier, zeros
from unified_jax.layers.mlp import Dense
from unified_jax.sharding import constrain

Activation = Literal["silu", "gelu", "relu", "mish"]
ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "mish": jax.nn.mish,
}
Size = tuple[int, int]
Resize = Literal["none", "down", "up"]


@dataclass(frozen=True)
class Style:
    """What all blocks of a U-Net share."""

    groups: int = 32
    """Groups of channels in each norm."""
    eps: float = 1e-5
    """Added to the variance in the norms of residual blocks."""
    activation: Activation = "silu"
    """Activation after each norm."""
    scale_shift: bool = False
    """Whether the embedding scales and shifts the second norm's output, instead of being added before it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype."""
    attention: choice.Attention = "auto"
    """Implementation of attention."""

    def act(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The activation."""
        return activate(ACTIVATIONS[self.activation], x)


def conv(
    features: int, name: str, style: Style, axes: tuple[str | None, str | None] = (None, "embed"), size: int = 3,
    zero: bool = False,
) -> Conv:  # fmt: skip
    """A convolution of odd size that keeps the sizes of the map."""
    around = ((size // 2, size // 2), (size // 2, size // 2))
    return Conv(features, size=(size, size), pads=around, zero=zero, dtype=style.dtype, axes=axes, name=name)


def settle(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """x sharded as a residual stream."""
    return constrain(x, "batch", None, None, "embed")


def halve(x: Float[Array, "b h w c"]) -> Float[Array, "b r s c"]:
    """Means over 2 x 2; an odd last row or column is dropped."""
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def enlarge(x: Float[Array, "b h w c"], size: Size) -> Float[Array, "b r s c"]:
    """Nearest neighbours: row i of the output is row floor(i h / r)."""
    for axis, wanted in enumerate(size, start=1):
        found = x.shape[axis]
        x = jnp.repeat(x, 2, axis) if wanted == 2 * found else jnp.take(x, jnp.arange(wanted) * found // wanted, axis)
    return x


class Residual(nn.Module):
    """A residual block."""

    features: int
    style: Style
    resize: Resize = "none"
    scale: float = 1.0
    """Divides the sum."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], emb: Float[Array, "b e"], size: Size = (0, 0)
    ) -> Float[Array, "b r s k"]:
        """The map with `features` channels, of `size` where it is enlarged."""
        style, dtype = self.style, jnp.dtype(self.style.dtype)
        h = style.act(GroupNorm(style.groups, style.eps, "embed", name="norm1")(x)).astype(dtype)
        if self.resize == "down":
            x, h = halve(x), halve(h)
        elif self.resize == "up":
            x, h = enlarge(x, size), enlarge(h, size)
        h = constrain(conv(self.features, "conv1", style, ("embed", "mlp"))(h), "batch", None, None, "mlp")
        second = GroupNorm(style.groups, style.eps, "mlp", name="norm2")
        count = 2 if style.scale_shift else 1
        rows = Dense(count * self.features, ("embed", "mlp"), name="time")(style.act(emb))[:, None, None]
        if style.scale_shift:
            # Replicated before it is divided: the halves do not align with the shards of the tensor axis.
            scale, shift = jnp.split(constrain(rows, "batch", None, None, "embed"), 2, axis=-1)
            h = second(h) * (1 + scale) + shift
        else:
            h = second(h + rows.astype(dtype))
        h = conv(self.features, "conv2", style, ("mlp", "embed"), zero=True)(style.act(h))
        if x.shape[-1] != self.features:
            x = Dense(self.features, (None, "embed"), dtype=dtype, name="shortcut")(x)
        return settle((x.astype(dtype) + h) / self.scale)


class Downsample(nn.Module):
    """Half the size by a convolution of stride 2, or by means over 2 x 2 without parameters."""

    style: Style
    learned: bool = True
    padded: Literal["around", "after"] = "around"
    """Where a learned one is padded: by one on every side, or only after the last row and column."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b r s c"]:
        """The smaller map."""
        if not self.learned:
            return halve(x)
        pads = ((1, 1), (1, 1)) if self.padded == "around" else ((0, 1), (0, 1))
        down = Conv(
            x.shape[-1], (2, 2), size=(3, 3), pads=pads, dtype=self.style.dtype, axes=(None, "embed"), name="conv"
        )
        return settle(down(x))


class Upsample(nn.Module):
    """Nearest neighbours, then a convolution if it is learned."""

    style: Style
    learned: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], size: Size) -> Float[Array, "b r s c"]:
        """The map of this size."""
        x = enlarge(x, size)
        return settle(conv(x.shape[-1], "conv", self.style)(x)) if self.learned else x


class MapAttention(nn.Module):
    """Attention of the positions of a map to each other, and to tokens besides where there are some.

    A position's softmax is over both; the tokens' keys and values are a projection of their own (Nichol et al. 2021).
    """

    heads: int
    style: Style
    scale: float = 1.0
    """Divides the sum."""
    groups: int | None = None
    """Groups of its norm; None: the style's; 0: there is no norm."""
    eps: float | None = None
    """Added to its norm's variance; None: the style's."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], memory: Float[Array, "b m f"] | None = None, length: Array | None = None
    ) -> Float[Array, "b h w c"]:
        """The map after the branch; of the tokens of each example only the first `length` are read."""
        style, d, e = self.style, x.shape[-1], x.shape[-1] // self.heads
        groups = style.groups if self.groups is None else self.groups
        eps = style.eps if self.eps is None else self.eps
        h = GroupNorm(groups, eps, "embed", name="group_norm")(x) if groups else x
        h = h.reshape(x.shape[0], -1, d)
        shape = (d, self.heads, 3, e)
        kernel = declare(self, "qkv_kernel", xavier(d, 3 * d), shape, ("embed", "heads", None, "head_dim"))
        bias = declare(self, "qkv_bias", zeros, shape[1:], ("heads", None, "head_dim"))
        weights, visible = QkvWeights(kernel.astype(style.dtype), bias), None
        runs = memory is not None and length is not None
        q, k, v = choice.modulated_qkv(h, None, weights, norm="none", attention=style.attention, runs=runs)
        if memory is not None:
            k, v = (jnp.concatenate(both, axis=1) for both in zip((k, v), self._tokens(memory, e), strict=True))
            if length is not None:
                stop = jnp.broadcast_to(h.shape[1] + length[:, None], h.shape[:2])
                visible = jnp.stack([jnp.zeros_like(stop), stop], axis=-1)
        a, _ = choice.attend(q, k, v, visible, attention=style.attention)
        out_shape = (self.heads, e, d)
        out_kernel = declare(self, "out_kernel", zeros, out_shape, ("heads", "head_dim", "embed"))
        out = OutWeights(out_kernel.astype(style.dtype), declare(self, "out_bias", zeros, (d,), ("embed",)))
        residual = x.reshape(h.shape).astype(style.dtype)
        return settle(choice.gated_out(residual, a, out, attention=style.attention).reshape(x.shape) / self.scale)

    def _tokens(self, memory: Array, e: int) -> tuple[Array, Array]:
        """Keys and values of the tokens."""
        dtype = jnp.dtype(self.style.dtype)
        shape = (memory.shape[-1], self.heads, 2, e)
        init = xavier(shape[0], 2 * self.heads * e)
        kernel = declare(self, "tokens_kernel", init, shape, ("embed", "heads", None, "head_dim"))
        bias = declare(self, "tokens_bias", zeros, shape[1:], ("heads", None, "head_dim"))
        both = einsum("bmd,dhte->bmhte", memory.astype(dtype), kernel.astype(dtype))
        both = add_bias(both, bias)
        return both[..., 0, :], both[..., 1, :]
