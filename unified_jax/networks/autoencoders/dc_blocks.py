"""Blocks of DC-AE (`dc`)."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from unified_jax.kernels.elementwise import activate
from unified_jax.kernels.product import applies, matmul, product
from unified_jax.layers.conv import Conv
from unified_jax.layers.init import declare, ones, xavier, zeros
from unified_jax.layers.mlp import Dense
from unified_jax.precision import EXACT

EPSILON = 1e-5
"""Of every norm."""
TINY = 1e-15
"""Added to the sum of an attention's weights."""
NormKind = Literal["rms", "batch", "layer"]
Activation = Literal["silu", "relu"]
ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {"silu": jax.nn.silu, "relu": jax.nn.relu}


def unshuffled(x: Float[Array, "b h w c"]) -> Float[Array, "b m n d"]:
    """Squares of 2 x 2 positions as channels."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(b, h // 2, w // 2, 4 * c)


def shuffled(x: Float[Array, "b h w c"]) -> Float[Array, "b m n d"]:
    """The inverse of `unshuffled`."""
    b, h, w, c = x.shape
    return x.reshape(b, h, w, c // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * h, 2 * w, c // 4)


class Norm(nn.Module):
    """A norm over channels with gain and bias, float32; a batch norm by its running statistics."""

    kind: NormKind

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """The normalised x."""
        c, x = (x.shape[-1],), x.astype(jnp.float32)
        if self.kind == "batch":
            x = x - declare(self, "mean", zeros, c, ("patch",))
            variance = declare(self, "variance", ones, c, ("patch",))
        else:
            x = x - jnp.mean(x, axis=-1, keepdims=True) if self.kind == "layer" else x
            variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(variance + EPSILON)
        return x * declare(self, "gain", ones, c, ("patch",)) + declare(self, "bias", zeros, c, ("patch",))


class ResidualBlock(nn.Module):
    """Two convolutions and a norm beside the identity."""

    activation: Activation
    norm: NormKind
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """The output, float32."""
        h = activate(ACTIVATIONS[self.activation], Conv(x.shape[-1], dtype=self.dtype, name="conv1")(x))
        h = Conv(x.shape[-1], bias=False, dtype=self.dtype, name="conv2")(h)
        return x + Norm(self.norm, name="norm")(h)


class LinearAttention(nn.Module):
    """Attention with the kernel relu(q) . relu(k), over all positions in time linear in them."""

    head_dim: int
    scales: tuple[int, ...]
    norm: NormKind
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """x with what it attended to, float32."""
        b, height, width, c = x.shape
        heads = c // self.head_dim
        inner = heads * self.head_dim
        kernel = declare(self, "qkv_kernel", xavier(c, 3 * inner), (c, 3, inner), ("embed", None, "heads"))
        kernel = kernel.reshape(c, 3 * inner).astype(self.dtype)
        qkv = matmul(x.astype(self.dtype), kernel)
        every = [qkv]
        for i, size in enumerate(self.scales):
            pads = ((size // 2, size // 2),) * 2
            depthwise = Conv(3 * inner, (1, 1), False, (size, size), pads, 3 * inner, bias=False, name=f"depthwise_{i}")
            point = ((0, 0), (0, 0))
            mixing = Conv(3 * inner, (1, 1), False, (1, 1), point, 3 * heads, bias=False, name=f"mixing_{i}")
            every.append(mixing(depthwise(qkv)))
        # A head takes consecutive channels of the whole, whichever projection they come from.
        grouped = jnp.concatenate(every, axis=-1).astype(jnp.float32)
        grouped = grouped.reshape(b, height * width, -1, 3, self.head_dim)
        q, k, v = jax.nn.relu(grouped[..., 0, :]), jax.nn.relu(grouped[..., 1, :]), grouped[..., 2, :]
        v = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=1.0)
        state = self._product("bnge,bngf->bgef", k, v)
        a = self._product("bnge,bgef->bngf", q, state)
        a = (a[..., :-1] / (a[..., -1:] + TINY)).reshape(b, height, width, -1)
        h = Dense(c, ("heads", "embed"), dtype=self.dtype, bias=False, name="out")(a)
        return x + Norm(self.norm, name="norm")(h)

    def _product(self, form: str, a: Array, b: Array) -> Array:
        """A float32 einsum; of operands rounded to bfloat16 where that is the compute dtype, on a CPU."""
        if applies(self.dtype):
            return product(form, a.astype(self.dtype), b.astype(self.dtype), jnp.float32)
        return jnp.einsum(form, a, b, precision=EXACT)


class GatedConv(nn.Module):
    """x + norm(W_2 (a silu(g))), with a and g the halves of a depthwise convolution of silu(W_1 x)."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """The output, float32."""
        hidden = 8 * x.shape[-1]
        h = activate(jax.nn.silu, Dense(hidden, ("embed", "mlp"), dtype=self.dtype, name="expand")(x))
        h = Conv(hidden, groups=hidden, dtype=self.dtype, name="depthwise")(h)
        h = activate(lambda a, g: a * jax.nn.silu(g), *jnp.split(h, 2, axis=-1))
        h = Dense(x.shape[-1], ("mlp", "embed"), dtype=self.dtype, bias=False, name="contract")(h)
        return x + Norm("rms", name="norm")(h)


class EfficientVit(nn.Module):
    """Linear attention, then a gated convolution."""

    head_dim: int
    scales: tuple[int, ...]
    norm: NormKind
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """The output, float32."""
        x = LinearAttention(self.head_dim, self.scales, self.norm, self.dtype, name="attention")(x)
        return GatedConv(self.dtype, name="mlp")(x)
