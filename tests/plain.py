"""The least network that trains, for tests of what surrounds one: it is traced and compiled in a third of the time."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from unified_jax.layers.embeddings import LabelEmbedding
from unified_jax.layers.mlp import Dense, Mlp


class Plain(nn.Module):
    """Every patch reads itself, the time, and all conditions as one row."""

    width: int = 16
    takes: ClassVar = ("label", "vector", "tokens")
    streams: ClassVar = "one"

    @nn.compact
    def __call__(self, noisy, conditions=(), *, layout=None, capture=()):
        """See `Backbone`."""
        (one,) = noisy
        row = Dense(self.width, (None, "embed"), name="time")(one.t[:, None] / 1000)
        for i, (form, value, *_) in enumerate(conditions):
            if form.kind == "label":
                row += LabelEmbedding(form.features, self.width, 0.5, name=f"label_{i}")(value)
            else:
                flat = value.reshape(len(value), -1, value.shape[-1]).mean(axis=1)
                row += Dense(self.width, (None, "embed"), name=f"{form.kind}_{i}")(flat)
        h = Dense(self.width, ("patch", "embed"), name="patch")(one.form.patches(one.x)) + row[:, None]
        h += Mlp(2 * self.width, name="mlp")(jnp.tanh(h))
        return {one.form.name: one.form.unpatch(Dense(one.form.out_features, ("embed", "patch"), name="final")(h))}, {}
