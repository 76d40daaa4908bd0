r"""Latents that are the features of a frozen encoder; only a decoder is trained (RAE, Zheng et al. 2025, 2510.11690).

    z   the map of an image encoder, h x w x d,  never trained
    y   decoder(z + sigma n),   sigma ~ U[0, noise] for each picture, n ~ N(0, 1);   sigma = 0 once it is trained

The decoder learns with the losses of an autoencoder (`terms`); the noise makes it read what a diffusion
model draws. Its finished run is a latent space: `uj.Latents(uj.stage("rae", RUN), patch=1)` holds encoder and decoder.
Scale and shift come from the set, as with any autoencoder.

A latent of many numbers hides less under the same noise, so that times lean towards noise, in training and sampling:
t' = s t / (1 + (s - 1) t), s = sqrt(h w d / 4096) (`time_shift`). A denoiser should be as wide as d.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.config import Open, lacking
from unified_jax.kernels.choice import Attention
from unified_jax.layers.embeddings import sincos_positions
from unified_jax.layers.init import zeros
from unified_jax.layers.mlp import Dense
from unified_jax.layers.modulation import AffineNorm
from unified_jax.modalities.grid import grid_positions, unpatchify
from unified_jax.models.autoencoders.model import Autoencoder
from unified_jax.models.autoencoding import Autoencoding
from unified_jax.models.boxed import HoldsEncoder
from unified_jax.models.stages import STAGES, Encoder, Stage, check_stages, encode
from unified_jax.networks.dit_block import Block
from unified_jax.precision import seed_key
from unified_jax.processes.times import resolution_shift
from unified_jax.typing import Keys, Params

BASE = 4096
"""Numbers of a latent whose times need no shift (Stable Diffusion's at 256 px)."""


def time_shift(shape: tuple[int, ...], base: int = BASE) -> float:
    """sqrt(numbers / base) of latents of this shape, for `times` of a process and `SamplingPlan.shift`.

    >>> time_shift((16, 16, 16))
    1.0
    >>> round(time_shift((16, 16, 768)), 2)
    6.93
    """
    return resolution_shift(math.prod(shape), base)


@runtime_checkable
class FeatureNetwork(Protocol):
    """A Flax module from maps of features to data."""

    def decode(self, z: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """The data of features."""
        ...


class FeatureDecoder(nn.Module):
    """A transformer over the places of a map, each of which becomes a patch of the picture."""

    patch: int = 16
    """Side of a place in pixels."""
    channels: int = 3
    """Channels of the picture."""
    width: int = 384
    """Features of the residual stream."""
    depth: int = 6
    """Number of blocks."""
    heads: int = 6
    """Attention heads; must divide width."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, norms and softmax stay float32."""
    attention: Attention = "auto"
    """Implementation of attention."""

    @nn.compact
    def decode(self, z: Float[Array, "b h w d"]) -> Float[Array, "b m n c"]:
        """The picture, grey at the start."""
        b, h, w, d = z.shape
        dtype = jnp.dtype(self.dtype)
        x = Dense(self.width, (None, "embed"), dtype=dtype, name="features")(z.reshape(b, h * w, d))
        x = x + sincos_positions(jnp.asarray(grid_positions((h, w), (1, 1))), self.width).astype(x.dtype)
        for i in range(self.depth):
            block = Block("in_context", self.heads, 4.0, False, dtype, self.attention, name=f"block_{i}")
            x, _ = block(x, x[:, :1])
        x = AffineNorm(name="norm")(x)
        x = Dense(self.patch**2 * self.channels, ("embed", "patch"), zeros, name="patch")(x)
        return unpatchify(x, (h * self.patch, w * self.patch), (self.patch, self.patch))


class Features(NamedTuple):
    """What stands for the moments of an autoencoder: a point, which training moves by noise."""

    mean: Float[Array, "b ..."]
    noise: float
    """Largest sigma, in the latent's numbers; 0: none."""
    logvar: None = None

    @property
    def std(self) -> Float[Array, "b ..."]:
        """0: a point."""
        return jnp.zeros_like(self.mean)

    def draw(self, keys: Keys) -> Float[Array, "b ..."]:
        """mean + sigma n, one key per row."""
        if not self.noise:
            return self.mean

        def one(key: Array) -> Array:
            level, noise = jax.random.split(key)
            return jax.random.uniform(level) * self.noise * jax.random.normal(noise, self.mean.shape[1:])

        return self.mean + jax.vmap(one)(keys)


@dataclass(frozen=True)
class FeatureCoding(HoldsEncoder, Autoencoding):
    """A frozen image encoder and a decoder of its map."""

    network: Open[FeatureNetwork] = dataclasses.field(default_factory=FeatureDecoder)
    """The decoder."""
    encoder: Stage | None = None
    """The encoder; it takes pictures in model space."""
    noise: float = 0.0
    """Largest sigma of the noise on a drawn latent."""

    def __post_init__(self) -> None:
        if self.encoder is None or (words := lacking(type(self.encoder.model), Encoder)):
            raise ValueError(f"FeatureCoding needs an encoder: {'there is none' if self.encoder is None else words}.")
        if self.noise < 0:
            raise ValueError(f"FeatureCoding.noise must not be negative, found {self.noise}.")
        super().__post_init__()
        x = jax.ShapeDtypeStruct((1, *self.latent_shape()), jnp.float32)
        network: Any = self.network
        made = jax.eval_shape(lambda x: network.init_with_output(seed_key(0), x, method="decode")[0], x).shape[1:]
        if made != tuple(self.shape):
            raise ValueError(f"The decoder makes {list(made)} of features, expected the data's {list(self.shape)}.")

    def _boxed(self, key: Array) -> Params:
        network: Any = self.network
        return network.init(key, jnp.zeros((1, *self.latent_shape())), method="decode")["params"]

    def latent_shape(self) -> tuple[int, ...]:
        """The shape of the encoder's map."""
        stage: Any = self.encoder
        made = lambda: stage.model.encode(stage.model.init(seed_key(0)), jnp.zeros((1, *self.shape))).map  # noqa: E731
        return jax.eval_shape(made).shape[1:]

    @property
    def point(self) -> bool:
        """True: no Gaussian."""
        return True

    def moments(self, params: Params, x: Float[Array, "b ..."]) -> Any:
        """The features, in place of moments."""
        stage: Any = self.encoder
        return Features(jnp.asarray(encode(stage, params, x).map), self.noise)

    def of_run(self, params: Params) -> Params:
        """The decoder's and the encoder's of the parameters of a run."""
        stage: Any = self.encoder
        held = {STAGES: {stage.name: params[STAGES][stage.name]}} if STAGES in params else {}
        return super().of_run(params) | held


@dataclass(frozen=True)
class FeatureAutoencoder(Autoencoder):
    """The training of the decoder, with the losses of an `Autoencoder`."""

    def __post_init__(self) -> None:
        if not isinstance(self.coder, FeatureCoding):
            raise ValueError(f"FeatureAutoencoder trains a FeatureCoding, found {type(self.coder).__name__}.")
        super().__post_init__()

    @property
    def stages(self) -> tuple[Any, ...]:
        """The encoder, and those of the losses."""
        coder: Any = self.coder
        return check_stages((*coder.stages, *super().stages), "FeatureAutoencoder")

    def serves(self) -> Autoencoding:
        """The coder without noise."""
        coder: Any = self.coder
        return dataclasses.replace(coder, noise=0.0)
