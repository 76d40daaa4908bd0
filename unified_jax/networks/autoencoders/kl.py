r"""Autoencoders with a Gaussian latent (Rombach et al. 2022): Stable Diffusion's, SDXL's, SD3's and Flux', VA-VAE.

    mean, logvar = split(quant(encoder(x))),   logvar clipped to [-30, 20]
    z            ~ N(mean, exp(logvar))
    x            = decoder(post_quant(z))

quant and post_quant are 1 x 1 convolutions, which SD3 and Flux leave out. f8 has four levels, f16 five.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.layers.mlp import Dense
from unified_jax.networks.autoencoders.coder import Decoder, Encoder, Levels
from unified_jax.networks.autoencoders.moments import Moments, moments


class KlAutoencoder(nn.Module):
    """Images to Gaussians and latents to images, NHWC."""

    levels: Levels = Levels()
    """Sizes of the two networks."""
    quant: bool = True
    """Whether a 1 x 1 convolution follows the encoder."""
    post_quant: bool = True
    """Whether a 1 x 1 convolution precedes the decoder."""

    def setup(self) -> None:
        """Both networks and the convolutions between them."""
        z, dtype = self.levels.latents, jnp.dtype(self.levels.dtype)
        self.encoder = Encoder(self.levels, 2 * z)
        self.decoder = Decoder(self.levels)
        self.quant_conv = Dense(2 * z, (None, "patch"), dtype=dtype) if self.quant else None
        self.post_quant_conv = Dense(z, (None, "patch"), dtype=dtype) if self.post_quant else None

    def between(self, features: Float[Array, "b h w f"]) -> Float[Array, "b h w f"]:
        """The moments in one array, from the encoder's features."""
        return features if self.quant_conv is None else self.quant_conv(features).astype(jnp.float32)

    def before(self, z: Float[Array, "b h w z"]) -> Float[Array, "b h w z"]:
        """What the decoder takes, from a latent."""
        return z if self.post_quant_conv is None else self.post_quant_conv(z).astype(jnp.float32)

    def encode(self, x: Float[Array, "b h w c"]) -> Moments:
        """The Gaussians of the latent, `[b, h / f, w / f, latents]`."""
        return moments(self.between(self.encoder(x)))

    def decode(self, z: Float[Array, "b h w z"]) -> Float[Array, "b m n c"]:
        """The image of a latent."""
        return self.decoder(self.before(z))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b m n d"]:
        """The reconstruction from the mean."""
        return self.decode(self.encode(x).mean)
