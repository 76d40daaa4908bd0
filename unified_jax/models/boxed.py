"""The parameters of a model that is one Flax network: what every encoder and autoencoder shares."""

from typing import Any

import jax
from jaxtyping import Array

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
