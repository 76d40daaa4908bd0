r"""The vector of an encoder as a latent of one token: UniDiffuser's second view of an image (Bao et al. 2023).

    z = pooled vector of the frozen encoder,  z0 = (z - shift) * scale;   with `normalise`, z is LN(z)

A stream of it shares the time of the stream that holds the image itself, so that both are given, wanted or absent
together; nothing is decoded of it:

    uj.Stream(image, name="image_vector", time="image", latents=uj.Latents(uj.feature_token(stage), patch=1))
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.config import Open, lacking
from unified_jax.errors import UserError
from unified_jax.kernels.reference import normalise
from unified_jax.models.boxed import Scaled, Wraps
from unified_jax.models.feature_latents import Features
from unified_jax.models.stages import Encoder, Stage
from unified_jax.typing import Params


@dataclass(frozen=True)
class FeatureToken(Scaled, Wraps):
    """An encoder as a latent space of one token: see `LatentModel`."""

    model: Open[Encoder]
    """The encoder."""
    normalise: bool = True
    """Whether the vector has mean 0 and variance 1."""
    scale: tuple[float, ...] = (1.0,)
    """Factor of the latents: one, or one for each feature."""
    shift: tuple[float, ...] = (0.0,)
    """Taken from the latents before: one, or one for each feature."""

    def __post_init__(self) -> None:
        if words := lacking(type(self.model), Encoder):
            raise ValueError(f"FeatureToken needs an encoder: {words}.")
        self.check_scale(self.latent_shape()[-1])

    def latent_shape(self) -> tuple[int, ...]:
        """One token."""
        encoder: Any = self.model
        return 1, encoder.condition_form("pooled").features

    def moments(self, params: Params, x: Float[Array, "b ..."]) -> Features:
        """The vectors of data in model space, which are points."""
        encoder: Any = self.model
        z = encoder.encode(params, x).pooled[:, None].astype(jnp.float32)
        return Features(normalise(z, "layer", 1e-6) if self.normalise else z, 0.0)

    def decode(self, params: Params, z: Float[Array, "b 1 d"]) -> Float[Array, "b ..."]:
        """Raises UserError: a vector holds no picture."""
        del params, z
        raise UserError(
            f"The vector of {type(self.model).__name__} cannot be turned back into data: declare the stream of the "
            "data itself first, and let this one share its time."
        )


def feature_token(stage: Stage, normalise: bool = True) -> Stage:
    """The same stage, seen as a latent space of one token."""
    made: Any = stage.model
    return dataclasses.replace(stage, model=FeatureToken(made, normalise))
