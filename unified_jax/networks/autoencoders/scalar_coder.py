r"""Autoencoders whose codes need no table: FSQ (Mentzer et al. 2023), lookup-free and on a sphere (Yu et al. 2023).

    z = quant(encoder(x)),   q = each number rounded (`scalar`),   x = decoder(post_quant(q))

The encoder says z; the decoder takes it and rounds first, so that a model of latents may give it any numbers.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.layers.mlp import Dense
from unified_jax.networks.autoencoders.coder import Decoder, Encoder, Levels
from unified_jax.networks.autoencoders.moments import Moments
from unified_jax.networks.autoencoders.scalar import Fsq, Lfq


class ScalarAutoencoder(nn.Module):
    """Images to ids and back, NHWC."""

    levels: Levels = Levels(latents=16)
    """Sizes of the two networks."""
    quantiser: Fsq | Lfq = Fsq()
    """How numbers are rounded; it says how many there are."""

    def setup(self) -> None:
        """Both networks and the convolutions around the quantiser."""
        s, dtype = self.levels, jnp.dtype(self.levels.dtype)
        self.encoder, self.decoder = Encoder(s, s.latents), Decoder(s)
        self.quant_conv = Dense(self.quantiser.width, (None, "patch"), dtype=dtype)
        self.post_quant_conv = Dense(s.latents, (None, "patch"), dtype=dtype)

    def encode(self, x: Float[Array, "b h w c"]) -> Moments:
        """The vectors before quantisation, a point for each."""
        return Moments(self.quant_conv(self.encoder(x)).astype(jnp.float32))

    def ids(self, z: Float[Array, "b h w d"]) -> Int[Array, "b h w"]:
        """The ids of vectors."""
        return self.quantiser.quantise(z)[1]

    def decode(self, z: Float[Array, "b h w d"]) -> Float[Array, "b m n c"]:
        """The image of vectors, after their quantisation."""
        return self.decode_codes(self.quantiser.quantise(z)[0])

    def decode_codes(self, code: Float[Array, "b h w d"]) -> Float[Array, "b m n c"]:
        """The image of codes."""
        return self.decoder(self.post_quant_conv(code).astype(jnp.float32))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b m n d"]:
        """The reconstruction."""
        return self.decode(self.encode(x).mean)
