r"""Embedders: from a span's array to tokens and back, between a modality and the trunk.

    encode   x [n, *sizes, c]  ->  tokens [n, k, d], skips
    decode   tokens [n, k, d], skips  ->  y [n, *sizes, c']

Skips are the activations that an encoder passes to its decoder, around the trunk, per item.

    linear          patches W + b, and back (Transfusion's linear variant)
    convolutional   two convolutions before the array is divided into patches, two after they are joined: patches see
                    their neighbours' edges
    unet            down and up blocks with skips (`layers.unet`; Transfusion's U-Net variant)
    pointnet        one network per point and a maximum over each token (`layers.pointnet`)
    groups          centres by farthest-point sampling and their nearest neighbours, for point clouds in any order

An embedder is made inside the network's call: its layers belong to the network, under NAME_in and NAME_out.
"""

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.layers.conv import Conv
from unified_jax.layers.form import Embedder, Form
from unified_jax.layers.init import zeros
from unified_jax.layers.mlp import Dense
from unified_jax.layers.pointnet import PointGroups, PointNet
from unified_jax.layers.unet import UNet
from unified_jax.modalities.grid import patchify, unpatchify


@dataclass(frozen=True)
class PatchEmbedder:
    """The linear embedder, and the convolutional one around it."""

    form: Form

    def encode(
        self, x: Float[Array, "n ..."], c: Float[Array, "n d"], width: int, dtype: Any
    ) -> tuple[Float[Array, "n k d"], tuple[Array, ...]]:
        """See `Embedder`."""
        del c
        if self.form.embedder == "convolutional":
            x = ConvPair(self.form.features, self.form.features, name=f"{self.form.name}_in_conv")(x)
        patches = patchify(x, self.form.cut)
        return Dense(width, ("patch", "embed"), dtype=dtype, name=f"{self.form.name}_in")(patches), ()

    def decode(
        self, h: Float[Array, "n k d"], skips: tuple[Array, ...], c: Float[Array, "n d"]
    ) -> Float[Array, "n ..."]:
        """See `Embedder`."""
        del skips, c
        form, plain = self.form, self.form.embedder == "linear"
        channels = form.out_channels if plain else form.features
        features = math.prod(form.cut) * channels
        head = Dense(features, ("embed", "patch"), zeros if plain else None, name=f"{form.name}_out")
        y = unpatchify(head(h).astype(jnp.float32), form.shape[:-1], form.cut)
        if plain:
            return y
        return ConvPair(form.features, form.out_channels, zero=True, name=f"{form.name}_out_conv")(y)


class ConvPair(nn.Module):
    """Two convolutions of size 3 with a GELU between them."""

    hidden: int
    features: int
    zero: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """The output, of the same sizes."""
        h = jax.nn.gelu(Conv(self.hidden, name="conv1")(x))
        return Conv(self.features, zero=self.zero, name="conv2")(h)


def make_embedder(form: Form) -> Embedder:
    """The embedder of a form. Raises ValueError if it does not support this shape."""
    match form.embedder:
        case "linear" | "convolutional":
            return PatchEmbedder(form)
        case "unet":
            return UNet(form)
        case "pointnet":
            return PointNet(form)
        case "groups":
            return PointGroups(form)
