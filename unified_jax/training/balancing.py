"""How the terms of a loss are weighed against each other."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array


@dataclass(frozen=True)
class FixedBalance:
    """Constant weights; a term that is not named has weight 1."""

    weights: tuple[tuple[str, float], ...] = ()
    """Pairs (term, weight)."""

    def init(self) -> dict[str, Array]:
        """The balance's part of the train state: nothing."""
        return {}

    def weigh(self, state: Any, names: tuple[str, ...]) -> dict[str, Array]:
        """Weight of each term. Raises ValueError for a named term that the model does not have."""
        del state
        unknown = sorted({name for name, _ in self.weights} - set(names))
        if unknown:
            raise ValueError(f"The balance names loss terms {unknown}; this model has {list(names)}.")
        return {name: jnp.asarray(dict(self.weights).get(name, 1.0), jnp.float32) for name in names}
