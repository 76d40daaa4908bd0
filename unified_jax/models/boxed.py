"""The parameters of a model that is one Flax network: what every encoder and autoencoder shares."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.precision import seed_key
from unified_jax.sharding import logical_axes, unbox
from unified_jax.typing import Params


class Boxed:
    """A mixin without fields: `init` and `axes` from `_boxed`, the parameters with the names of their axes."""

    def _boxed(self, key: Array) -> Params:
        """The network's parameters as Flax makes them."""
        raise NotImplementedError

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters."""
        return unbox(self._boxed(key))

    def axes(self) -> Any:
        """Logical axis names of every parameter."""
        return logical_axes(jax.eval_shape(self._boxed, seed_key(0)))


class Wraps:
    """A mixin without fields for a model that is another one, seen otherwise: it has the other's parameters."""

    model: Any
    """The other model."""

    def init(self, key: Array) -> Params:
        """See `Network`."""
        return self.model.init(key)

    def axes(self) -> Any:
        """See `Network`."""
        return self.model.axes()

    @property
    def stages(self) -> tuple[Any, ...]:
        """See `stages.Holds`."""
        return getattr(self.model, "stages", ())

    def init_aux(self, params: Params) -> Any:
        """See `stages.Holds`."""
        return self.model.init_aux(params) if hasattr(self.model, "init_aux") else {}

    def finds(self, source: str) -> bool:
        """See `Published`."""
        return getattr(self.model, "finds", lambda source: False)(source)

    def read(self, source: str) -> Params:
        """See `Published`."""
        return self.model.read(source)

    def of_run(self, params: Params) -> Params:
        """See `Narrows`."""
        return getattr(self.model, "of_run", lambda params: params)(params)


class HoldsEncoder:
    """A mixin without fields for a model around a frozen encoder: see `stages.Holds`."""

    encoder: Any
    """The encoder's stage, or None."""

    @property
    def stages(self) -> tuple[Any, ...]:
        """The encoder."""
        return (self.encoder,) if self.encoder else ()

    def init_aux(self, params: Params) -> Any:
        """{}."""
        del params
        return {}


class Scaled:
    """A mixin without fields for latents of about unit size: (z - shift) * scale, and back."""

    scale: tuple[float, ...]
    """Factor of the latents: one, or one for each channel."""
    shift: tuple[float, ...]
    """Taken from the latents before: one, or one for each channel."""

    def normalised(self, z: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """(z - shift) * scale."""
        return (z - jnp.asarray(self.shift, jnp.float32)) * jnp.asarray(self.scale, jnp.float32)

    def unscaled(self, z: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """z / scale + shift, as a decoder reads it."""
        return z / jnp.asarray(self.scale, jnp.float32) + jnp.asarray(self.shift, jnp.float32)

    def check_scale(self, channels: int) -> None:
        """Raises ValueError for factors that are not positive, or numbers that are not one, or one for each channel."""
        name = type(self).__name__
        if not all(s > 0 for s in self.scale) or not self.scale or not self.shift:
            raise ValueError(f"{name}.scale must be positive, found {self.scale} and shift {self.shift}.")
        for field in ("scale", "shift"):
            if len(getattr(self, field)) not in (1, channels):
                raise ValueError(f"{name}.{field} has {len(getattr(self, field))} numbers for {channels} channels.")
