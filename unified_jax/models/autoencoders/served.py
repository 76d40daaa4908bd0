"""A trained autoencoder as a stage: what `Autoencoding` does, with the parameters of a run."""

from jaxtyping import Array, Float

from unified_jax.modalities.conditions import ConditionForm
from unified_jax.models.autoencoding import Autoencoding
from unified_jax.models.stages import Encoded, Part
from unified_jax.networks.autoencoders.moments import Moments
from unified_jax.typing import Keys, Params


class Served:
    """A mixin without fields: see `LatentModel`, `Encoder` and `Decoder`."""

    coder: Autoencoding

    def serves(self) -> Autoencoding:
        """What a stage of a run of it is: the coder alone."""
        return self.coder

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the data."""
        return self.coder.shape

    def latent_shape(self) -> tuple[int, ...]:
        """See `LatentModel`."""
        return self.coder.latent_shape()

    def moments(self, params: Params, x: Float[Array, "b ..."]) -> Moments:
        """See `LatentModel`."""
        return self.coder.moments(self.coder.of_run(params), x)

    def normalised(self, z: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """See `LatentModel`."""
        return self.coder.normalised(z)

    def encode(self, params: Params, x: Float[Array, "b ..."], keys: Keys | None = None) -> Encoded:
        """See `Encoder`."""
        return self.coder.encode(self.coder.of_run(params), x, keys)

    def decode(self, params: Params, z: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """See `Decoder`."""
        return self.coder.decode(self.coder.of_run(params), z)

    def condition_form(self, part: Part) -> ConditionForm:
        """See `Encoder`."""
        return self.coder.condition_form(part)
