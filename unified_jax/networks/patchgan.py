r"""PatchGAN (Isola et al. 2017), the discriminator of VQ-GAN and latent diffusion: one logit for each patch.

    conv 4 / 2, leaky ReLU -> (conv 4 / 2, norm, leaky ReLU) for each further layer -> conv 4 / 1, norm, leaky ReLU
    -> conv 4 / 1 to one channel;   leaky ReLU: slope 0.2 below zero;   features double up to eight times

norm   batch  by the batch's own statistics in training (of the whole batch, on any mesh), else by running ones: the
              collection "running", which training moves
       act    scale (x + loc), both parameters (Glow)
       none
Penalties of the gradient (R1, R2) need a norm that keeps samples apart: act or none.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.layers.conv import Conv
from unified_jax.layers.init import declare, normal, ones, zeros

RUNNING = "running"
"""Collection of running statistics."""
MOMENTUM = 0.1
"""Share of a batch in the running statistics."""
EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Batch norm over all but the channels."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """The normalised x; in training the running statistics move, if their collection is mutable."""
        c = (x.shape[-1],)
        mean = self.variable(RUNNING, "mean", jnp.zeros, c)
        variance = self.variable(RUNNING, "variance", jnp.ones, c)
        found = mean.value, variance.value
        if train:
            found = jnp.mean(x, axis=(0, 1, 2)), jnp.var(x, axis=(0, 1, 2))
        if train and self.is_mutable_collection(RUNNING) and not self.is_initializing():
            count = x.size // x.shape[-1]
            for held, new in ((mean, found[0]), (variance, found[1] * count / (count - 1))):
                held.value = (1 - MOMENTUM) * held.value + MOMENTUM * jax.lax.stop_gradient(new)
        h = (x - found[0]) * jax.lax.rsqrt(found[1] + EPSILON)
        gain = declare(self, "gain", lambda *a: 1 + normal(0.02)(*a), c, ("patch",))
        return h * gain + declare(self, "bias", zeros, c, ("patch",))


class ActNorm(nn.Module):
    """scale (x + loc)."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """The scaled x."""
        loc = declare(self, "loc", zeros, (x.shape[-1],), ("patch",))
        return declare(self, "scale", ones, (x.shape[-1],), ("patch",)) * (x + loc)


class PatchGan(nn.Module):
    """Images in [-1, 1] to logits."""

    features: int = 64
    """Features of the first layer."""
    layers: int = 3
    """Layers of stride 2."""
    norm: Literal["batch", "act", "none"] = "batch"
    """See the module."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b m n 1"]:
        """The logits of overlapping patches."""
        h = self._conv(x, 0, self.features, 2, True)
        for n in range(1, self.layers + 1):
            h = jax.nn.leaky_relu(h, 0.2)
            features = self.features * min(2**n, 8)
            h = self._conv(h, n, features, 1 if n == self.layers else 2, self.norm != "batch")
            if self.norm == "batch":
                h = BatchNorm(name=f"norm_{n}")(h, train)
            elif self.norm == "act":
                h = ActNorm(name=f"norm_{n}")(h)
        return self._conv(jax.nn.leaky_relu(h, 0.2), self.layers + 1, 1, 1, True)

    def _conv(self, x: Array, n: int, features: int, stride: int, bias: bool) -> Array:
        pads = ((1, 1), (1, 1))
        return Conv(features, (stride, stride), size=(4, 4), pads=pads, bias=bias, name=f"conv_{n}")(x)
