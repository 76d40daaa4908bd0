"""Adaptive layer norm: a conditioning vector becomes shift, scale and gate rows (in this order)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels.inputs import Index
from unified_jax.kernels.reference import normalise
from unified_jax.kernels.xla import modulate
from unified_jax.layers.init import Init, declare, ones, zeros
from unified_jax.layers.mlp import Dense
from unified_jax.sharding import constrain


class ModulationRows(nn.Module):
    """Linear(SiLU(c)) split into `chunks` parts of the width; zero-initialised (adaLN-Zero), float32."""

    chunks: int
    width: int
    kernel_init: Init = zeros

    @nn.compact
    def __call__(self, c: Float[Array, "b k d"]) -> tuple[Float[Array, "b k d"], ...]:
        """One `[b, k, d]` per chunk."""
        rows = Dense(self.chunks * self.width, ("embed", "mlp"), self.kernel_init, name="linear")(jax.nn.silu(c))
        # Replicated before the split: chunks do not align with the shards of the tensor axis, and the partitioner of
        # jax 0.10 mixes up rows when it moves them on a mesh of data x fsdp x tensor.
        rows = constrain(rows, "batch", None, "embed")
        return tuple(jnp.split(rows, self.chunks, axis=-1))


def modulated_norm(
    x: Float[Array, "b n d"], shift: Array, scale: Array, index: Index | None = None, eps: float = 1e-6
) -> Float[Array, "b n d"]:
    """LayerNorm(x) (1 + scale) + shift without affine gains, float32."""
    return modulate(normalise(x, "layer", eps), shift, scale, index)


class AffineNorm(nn.Module):
    """LayerNorm with a learned gain and bias, float32: the norm of a block without modulation."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """The normalised x."""
        gain = declare(self, "gain", ones, x.shape[-1:], ("embed",))
        bias = declare(self, "bias", zeros, x.shape[-1:], ("embed",))
        return normalise(x, "layer", self.eps) * gain + bias
