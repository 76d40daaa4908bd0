"""Dense layers and the transformer's MLP."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from unified_jax.kernels.elementwise import activate, add_bias
from unified_jax.kernels.product import matmul
from unified_jax.kernels.xla import rows_of
from unified_jax.layers.init import Init, declare, xavier, zeros
from unified_jax.sharding import constrain


class Dense(nn.Module):
    """y = x W + b over the last axis; parameters `kernel` and `bias`."""

    features: int
    axes: tuple[str | None, str | None]
    kernel_init: Init | None = None
    dtype: DTypeLike = jnp.float32
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*s d"]) -> Float[Array, "*s m"]:
        """Computes in `dtype`."""
        shape = (x.shape[-1], self.features)
        kernel = declare(self, "kernel", self.kernel_init or xavier(*shape), shape, self.axes)
        y = matmul(rows_of(x.astype(self.dtype)), kernel.astype(self.dtype))
        if self.bias:
            y = add_bias(y, declare(self, "bias", zeros, (self.features,), self.axes[1:]))
        return y.reshape(x.shape[:-1] + (self.features,))


class Mlp(nn.Module):
    """W2 gelu_tanh(W1 x + b1) + b2."""

    hidden: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """The hidden features are sharded over the tensor axis."""
        h = Dense(self.hidden, ("embed", "mlp"), dtype=self.dtype, name="fc1")(x)
        h = constrain(activate(jax.nn.gelu, h), "batch", "length", "mlp")
        return Dense(x.shape[-1], ("mlp", "embed"), dtype=self.dtype, name="fc2")(h)


class SwiGlu(nn.Module):
    """W2 (silu(W1 x) * W3 x), without biases (Shazeer 2020; Llama: gate, up, down)."""

    hidden: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """The hidden features are sharded over the tensor axis."""
        gate = Dense(self.hidden, ("embed", "mlp"), dtype=self.dtype, bias=False, name="gate")(x)
        up = Dense(self.hidden, ("embed", "mlp"), dtype=self.dtype, bias=False, name="up")(x)
        h = constrain(activate(lambda gate, up: jax.nn.silu(gate) * up, gate, up), "batch", "length", "mlp")
        return Dense(x.shape[-1], ("mlp", "embed"), dtype=self.dtype, bias=False, name="down")(h)
