"""A linear autoencoder of single pixels: every gradient is known in closed form, and it compiles in no time."""

import flax.linen as nn

from unified_jax.layers.mlp import Dense
from unified_jax.networks.autoencoders.moments import moments


class Ends(nn.Module):
    """One product of the channels, under the name of a real network's last kernel."""

    features: int

    def setup(self):
        self.conv_out = Dense(self.features, (None, "patch"))

    def __call__(self, x):
        return self.conv_out(x)


class Line(nn.Module):
    """Gaussians of `width` channels for every pixel."""

    width: int = 2

    def setup(self):
        self.encoder, self.decoder = Ends(2 * self.width), Ends(3)

    def encode(self, x):
        return moments(self.encoder(x))

    def decode(self, z):
        return self.decoder(z)

    def __call__(self, x):
        return self.decode(self.encode(x).mean)
