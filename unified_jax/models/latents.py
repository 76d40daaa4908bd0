r"""Diffusion in the latent space of a frozen autoencoder (Rombach et al. 2022).

    z0  = (z - shift) * scale,    z = mean + std eps of the autoencoder's Gaussian, drawn anew in every step
    x   = decoder(z0 / scale + shift)

The stream is noised, denoised and sampled as z0; batches, samples and previews stay data. Scale and shift belong to the
autoencoder (`models.autoencoding`), so that they travel with the stage.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Num

from unified_jax.config import lacking
from unified_jax.models.row_groups import in_groups
from unified_jax.models.stages import Stage, stage_params
from unified_jax.typing import Keys, Params


@runtime_checkable
class LatentModel(Protocol):
    """What the stage of a latent stream is: `Autoencoding`, or a class of one's own."""

    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one latent, channels last."""
        ...

    def moments(self, params: Params, x: Num[Array, "b ..."]) -> Any:
        """From model space: an object with `mean` and `draw(keys)`, before scale and shift."""
        ...

    def normalised(self, z: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """(z - shift) * scale."""
        ...

    def decode(self, params: Params, z: Float[Array, "b ..."]) -> Num[Array, "b ..."]:
        """Data in model space from normalised latents."""
        ...


@dataclass(frozen=True)
class Latents:
    """The latent space in which a stream is denoised."""

    stage: Stage
    """The autoencoder."""
    patch: int = 2
    """Side of a patch of the latent, in its numbers."""
    draw: Literal["sample", "mean"] = "sample"
    """The latent of a training example: drawn anew in every step, or the mean."""
    rows: int = 0
    """Samples that a device decodes at a time; 0: all. Fewer need less memory."""
    cached: bool = False
    """Whether the batch holds the moments, computed once (`data.cached`): no step needs the data or the autoencoder."""

    def __post_init__(self) -> None:
        if words := lacking(type(self.stage.model), LatentModel):
            raise ValueError(f"The stage {self.stage.name!r} is no autoencoder: {words}.")
        if self.patch < 1 or self.rows < 0:
            raise ValueError(f"Latents.patch is at least 1 and rows not negative, found {self.patch} and {self.rows}.")

    @property
    def model(self) -> Any:
        """The autoencoder."""
        return self.stage.model

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one latent."""
        return self.model.latent_shape()

    @property
    def cut(self) -> tuple[int, ...]:
        """Sizes of a patch along every axis but the last."""
        return (self.patch,) * (len(self.shape) - 1)

    def check(self, what: str, shape: tuple[int, ...]) -> None:
        """Raises ValueError where the autoencoder was made for data of another shape."""
        expected = getattr(self.model, "shape", shape)
        if tuple(expected) != tuple(shape):
            raise ValueError(
                f"{what} has the shape {list(shape)}, the autoencoder {self.stage.name!r} takes {list(expected)}."
            )

    def check_cached(self, modality: Any) -> None:
        """Raises ValueError for cached latents of data that varies."""
        if self.cached and getattr(modality, "varies", False):
            raise ValueError(
                f"Latents are cached of one view of {modality.name!r}, which varies from step to step; leave cached "
                "off, or crop at the centre and do not mirror."
            )

    def encode(self, params: Params, x: Num[Array, "b ..."], keys: Keys | None) -> Float[Array, "b ..."]:
        """Normalised latents of data in model space, without a gradient; their means without keys."""
        own = stage_params(params, self.stage.name)
        look: Callable[[Array], Any] = lambda part: self.model.moments(own, part)  # noqa: E731
        moments = in_groups(look, x, self.stage.rows) if self.stage.rows else look(x)
        z = moments.mean if keys is None or self.draw == "mean" else moments.draw(keys)
        return jax.lax.stop_gradient(self.model.normalised(z))

    def decode(self, params: Params, z: Float[Array, "b ..."]) -> Num[Array, "b ..."]:
        """Data in model space."""
        own = stage_params(params, self.stage.name)
        run: Callable[[Array], Array] = lambda part: self.model.decode(own, part)  # noqa: E731
        return in_groups(run, z, self.rows) if self.rows else run(z)
