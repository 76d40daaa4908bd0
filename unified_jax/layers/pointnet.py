r"""Tokens of point clouds: PointNet over the points of a token, or over groups around centres.

PointNet (Qi et al. 2017, arXiv 1612.00593): one network for every point, then the maximum over them; the decoder joins
each point's own features with its token's (their segmentation network).

Groups (Qi et al. 2017, arXiv 1706.02413; Point-BERT): k centres by farthest-point sampling, the nearest neighbours of
each, relative to it, through a PointNet. The decoder gives each point the tokens of its three nearest centres,
weighted by the inverse squared distance. Only the first centre depends on the order of the points.

The first three features of a point are its position.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.layers.form import Form
from unified_jax.layers.init import zeros
from unified_jax.layers.mlp import Dense

NEIGHBOURS = 32
"""Number of points of a group."""


def check_cloud(form: Form) -> None:
    """Raises ValueError unless the form is that of a point cloud."""
    if len(form.cut) != 1 or form.shape[-1] < 3:
        raise ValueError(
            f"The embedder {form.embedder!r} needs points [k, 3 + c], found {form.name} of shape {list(form.shape)}; "
            "use linear, convolutional or unet for it."
        )


@dataclass(frozen=True)
class PointNet:
    """An embedder (`layers.embedders`) of sorted point clouds: a token's points are `cut` neighbours."""

    form: Form

    def __post_init__(self) -> None:
        check_cloud(self.form)

    def encode(
        self, x: Float[Array, "n k c"], c: Float[Array, "n d"], width: int, dtype: Any
    ) -> tuple[Float[Array, "n t d"], tuple[Array, ...]]:
        """See `Embedder`."""
        del c
        per, form = self.form.cut[0], self.form
        points = jnp.pad(x, ((0, 0), (0, form.tokens * per - x.shape[1]), (0, 0)), mode="edge")
        points = points.reshape(len(x), form.tokens, per, -1)
        centre = jnp.mean(points[..., :3], axis=2)
        pooled, own = PointNetwork(form.features, name=f"{form.name}_in_points")(points, centre)
        tokens = Dense(width, ("patch", "embed"), dtype=dtype, name=f"{form.name}_in")(pooled)
        return tokens, (own.reshape(len(x), form.tokens * per, -1)[:, : x.shape[1]],)

    def decode(
        self, h: Float[Array, "n t d"], skips: tuple[Array, ...], c: Float[Array, "n d"]
    ) -> Float[Array, "n k c"]:
        """See `Embedder`."""
        del c
        spread = jnp.repeat(_narrow(self.form, h), self.form.cut[0], axis=1)[:, : self.form.shape[0]]
        return _to_points(self.form, spread, skips[0])


@dataclass(frozen=True)
class PointGroups:
    """An embedder (`layers.embedders`) of point clouds in any order."""

    form: Form

    def __post_init__(self) -> None:
        check_cloud(self.form)

    def encode(
        self, x: Float[Array, "n k c"], c: Float[Array, "n d"], width: int, dtype: Any
    ) -> tuple[Float[Array, "n t d"], tuple[Array, ...]]:
        """See `Embedder`."""
        del c
        form, places = self.form, jax.lax.stop_gradient(x[..., :3])
        centres = jnp.take_along_axis(places, farthest_points(places, form.tokens)[..., None], axis=1)
        near, _ = nearest(centres, places, min(NEIGHBOURS, form.shape[0]))
        groups = jax.vmap(lambda cloud, index: cloud[index])(x, near)
        pooled, _ = PointNetwork(form.features, name=f"{form.name}_in_points")(groups, centres)
        tokens = Dense(width, ("patch", "embed"), dtype=dtype, name=f"{form.name}_in")(pooled)
        own = jax.nn.gelu(Dense(form.features, (None, "patch"), name=f"{form.name}_in_own")(x))
        index, squared = nearest(places, centres, min(3, form.tokens))
        weight = 1 / (squared + 1e-4)
        return tokens, (own, index, weight / jnp.sum(weight, axis=-1, keepdims=True))

    def decode(
        self, h: Float[Array, "n t d"], skips: tuple[Array, ...], c: Float[Array, "n d"]
    ) -> Float[Array, "n k c"]:
        """See `Embedder`."""
        del c
        own, index, weight = skips
        near = jax.vmap(lambda tokens, at: tokens[at])(_narrow(self.form, h), index)
        return _to_points(self.form, jnp.sum(near * weight[..., None], axis=2), own)


def _narrow(form: Form, h: Float[Array, "n t d"]) -> Float[Array, "n t f"]:
    return Dense(form.features, ("embed", "patch"), name=f"{form.name}_out")(h).astype(jnp.float32)


def _to_points(form: Form, spread: Float[Array, "n k f"], own: Float[Array, "n k g"]) -> Float[Array, "n k c"]:
    joined = jnp.concatenate([spread, own], axis=-1)
    joined = jax.nn.gelu(Dense(2 * form.features, (None, "patch"), name=f"{form.name}_out_points")(joined))
    return Dense(form.out_channels, (None, "patch"), zeros, name=f"{form.name}_out_last")(joined)


class PointNetwork(nn.Module):
    """Groups of points `[n, t, p, c]` around centres `[n, t, 3]` to (features of a group, features of each point)."""

    features: int

    @nn.compact
    def __call__(
        self, points: Float[Array, "n t p c"], centres: Float[Array, "n t 3"]
    ) -> tuple[Float[Array, "n t f"], Float[Array, "n t p g"]]:
        """The group's features end with its centre."""
        local = jnp.concatenate([points[..., :3] - centres[:, :, None], points], axis=-1)
        own = jax.nn.gelu(Dense(self.features, (None, "patch"), name="fc1")(local))
        deep = Dense(4 * self.features, (None, "patch"), name="fc2")(own)
        return jnp.concatenate([jnp.max(deep, axis=2), centres], axis=-1), own


def farthest_points(places: Float[Array, "n k 3"], count: int) -> Int[Array, "n t"]:
    """Indices of points, each the farthest from all before it; the first is point 0 (Eldar et al. 1997)."""

    def add(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        gap, last = carry
        here = jnp.take_along_axis(places, last[:, None, None], axis=1)
        gap = jnp.minimum(gap, jnp.sum(jnp.square(places - here), axis=-1))
        return (gap, jnp.argmax(gap, axis=-1).astype(jnp.int32)), last

    start = (jnp.full(places.shape[:2], jnp.inf), jnp.zeros(len(places), jnp.int32))
    return jax.lax.scan(add, start, None, length=count)[1].T


def nearest(
    queries: Float[Array, "n q 3"], places: Float[Array, "n k 3"], count: int
) -> tuple[Int[Array, "n q m"], Float[Array, "n q m"]]:
    """(indices, squared distances) of the `count` nearest positions of each query, nearest first."""
    squared = jnp.sum(jnp.square(queries[:, :, None] - places[:, None]), axis=-1)
    negative, index = jax.lax.top_k(-squared, count)
    return index, -negative
