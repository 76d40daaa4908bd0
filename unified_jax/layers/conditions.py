"""Conditions inside a network: their nulls, and vectors that join the embedding of time.

A learned null is a row of its own: N(0, 0.02^2) at the start. Tokens of an absent condition are that row repeated, at
full length, so that attention to them is attention to one token. A condition with a weight, which grows as noise goes
(`models.controls`), has its embedding scaled by it, the null's too.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.layers.form import ConditionInput
from unified_jax.layers.init import declare, normal
from unified_jax.layers.mlp import Dense


def filled(module: nn.Module, shown: ConditionInput) -> ConditionInput:
    """The condition with its null where it is absent; a learned one is the module's parameter null_NAME."""
    form, present = shown.form, shown.present
    if form.kept or form.null in ("row", "empty") or present is None:
        return shown
    value, length = shown.value, shown.length
    if form.null == "learned":
        row = declare(module, f"null_{form.name}", normal(0.02), (form.features,), (None,))
        value = jnp.where(present.reshape((-1,) + (1,) * (value.ndim - 1)), value, row)
    if length is not None:
        length = jnp.where(present, length, value.shape[1])
    return shown._replace(value=value, length=length)


class VectorEmbedding(nn.Module):
    """A vector `[b, v]` to the width of the time embedding: Linear, SiLU, Linear (SD3's pooled text), float32."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "b v"]) -> Float[Array, "b d"]:
        """Added to the embedding of time."""
        h = Dense(self.width, (None, "embed"), name="fc1")(x)
        return Dense(self.width, ("embed", "mlp"), name="fc2")(jax.nn.silu(h))


def weighted(shown: ConditionInput, embedded: Float[Array, "b *s"]) -> Float[Array, "b *s"]:
    """The embedding of a condition times its weight; without one, as it is."""
    if shown.weight is None:
        return embedded
    return embedded * shown.weight.reshape((-1,) + (1,) * (embedded.ndim - 1)).astype(embedded.dtype)


def key_range(shown: ConditionInput, queries: int) -> Array | None:
    """The visible range `[b, queries, 2]` of tokens with a length: the first `length` keys; None for all."""
    if shown.length is None:
        return None
    stop = jnp.broadcast_to(shown.length[:, None], (shown.length.shape[0], queries))
    return jnp.stack([jnp.zeros_like(stop), stop], axis=-1)
