r"""Autoencoders with a table of codes (VQ-GAN, Esser et al. 2021; MoVQ, Zheng et al. 2022).

    z = quant(encoder(x)),   q = the nearest row of the table,   x = decoder(post_quant(q))

The table is a parameter, learned by |sg z - e|^2 + beta |z - sg e|^2.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.layers.init import declare, normal
from unified_jax.layers.mlp import Dense
from unified_jax.networks.autoencoders.coder import Decoder, Encoder, Levels
from unified_jax.networks.autoencoders.moments import Moments
from unified_jax.networks.autoencoders.quantise import Quantised, apart, nearest, passed, rows


class VqAutoencoder(nn.Module):
    """Images to ids and back, NHWC."""

    levels: Levels = Levels(latents=256, widths=(128, 128, 256, 256, 512))
    """Sizes of the two networks."""
    codes: int = 1024
    """Rows of the table."""
    width: int = 256
    """Features of a row."""

    def setup(self) -> None:
        """Both networks, the table and the convolutions around it."""
        if min(self.codes, self.width) < 1 or (self.levels.coded and self.width != self.levels.latents):
            raise ValueError("VqAutoencoder: codes and width must be at least 1, and width the latents where coded.")
        s, dtype = self.levels, jnp.dtype(self.levels.dtype)
        self.encoder, self.decoder = Encoder(s, s.latents), Decoder(s)
        self.quant_conv = Dense(self.width, (None, "patch"), dtype=dtype)
        self.post_quant_conv = Dense(s.latents, (None, "patch"), dtype=dtype)
        self.table = declare(self, "table", normal(1 / self.codes), (self.codes, self.width), ("codebook", None))

    def encode(self, x: Float[Array, "b h w c"]) -> Moments:
        """The vectors before quantisation, a point for each."""
        return Moments(self.quant_conv(self.encoder(x)).astype(jnp.float32))

    def quantise(self, z: Float[Array, "b h w d"]) -> Quantised:
        """The nearest rows."""
        ids = nearest(z, self.table)
        code = rows(self.table, ids)
        return Quantised(passed(z, code), ids, apart(z, code))

    def table_loss(self, z: Float[Array, "b h w d"], ids: Int[Array, "b h w"]) -> Float[Array, ""]:
        """Mean of |sg(z) - e|^2: what moves the rows."""
        return apart(rows(self.table, ids), z)

    def lookup(self, ids: Int[Array, "b h w"]) -> Float[Array, "b h w d"]:
        """The rows of ids."""
        return rows(self.table, ids)

    def decode(self, z: Float[Array, "b h w d"]) -> Float[Array, "b m n c"]:
        """The image of vectors, after their quantisation."""
        return self.decode_codes(self.quantise(z).codes)

    def decode_codes(self, code: Float[Array, "b h w d"]) -> Float[Array, "b m n c"]:
        """The image of codes."""
        z = self.post_quant_conv(code).astype(jnp.float32)
        return self.decoder(z, code if self.levels.coded else None)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b m n d"]:
        """The reconstruction."""
        return self.decode(self.encode(x).mean)
