r"""LPIPS (Zhang et al. 2018, arXiv 1801.03924, version 0.1): a distance of images by features of a classifier.

    f_l   = features after the last ReLU of stage l of VGG-16 or AlexNet, of (x - shift) / scale
    d     = sum_l mean over positions of sum_c w_lc (f_l / |f_l| - g_l / |g_l|)_c^2,   w_lc >= 0

Images lie in [-1, 1]. A position whose features are all zero stays zero, with a gradient of zero. Weights come from
torchvision's files and from those of the lpips package (`interop.lpips`); an extractor with other weights is not LPIPS.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.layers.conv import Conv
from unified_jax.layers.init import declare, ones

Kind = Literal["vgg", "alex"]
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
TINY = 1e-10
"""Added to the length of a feature vector."""


class Stage(NamedTuple):
    """Convolutions between two taps."""

    pool: int
    """Side of the maximum before them, of stride 2; 0: none."""
    convs: tuple[tuple[int, int, int, int], ...]
    """(number in torchvision's features, features, size, stride)."""


def _vgg(pool: int, features: int, first: int, count: int) -> Stage:
    return Stage(pool, tuple((first + 2 * i, features, 3, 1) for i in range(count)))


STAGES: dict[Kind, tuple[Stage, ...]] = {
    "vgg": (_vgg(0, 64, 0, 2), _vgg(2, 128, 5, 2), _vgg(2, 256, 10, 3), _vgg(2, 512, 17, 3), _vgg(2, 512, 24, 3)),
    "alex": (
        Stage(0, ((0, 64, 11, 4),)), Stage(3, ((3, 192, 5, 1),)), Stage(3, ((6, 384, 3, 1),)),
        Stage(0, ((8, 256, 3, 1),)), Stage(0, ((10, 256, 3, 1),)),
    ),
}  # fmt: skip


class Lpips(nn.Module):
    """The distance of two stacks of images."""

    kind: Kind = "vgg"
    """The classifier."""

    @nn.compact
    def __call__(self, a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]) -> Float[Array, "b l"]:
        """What each stage adds to the distance, which is the sum over the last axis."""
        stacked = (jnp.concatenate([a, b]) - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
        return jnp.stack([self._apart(i, f) for i, f in enumerate(self._features(stacked))], axis=-1)

    def _features(self, x: Float[Array, "b h w 3"]) -> list[Float[Array, "b ..."]]:
        found = []
        for stage in STAGES[self.kind]:
            x = nn.max_pool(x, (stage.pool, stage.pool), (2, 2)) if stage.pool else x
            for number, features, size, step in stage.convs:
                around = 2 if step > 1 else size // 2
                pads, stride = ((around, around), (around, around)), (step, step)
                conv = Conv(features, stride, size=(size, size), pads=pads, name=f"conv_{number}")
                x = jax.nn.relu(conv(x))
            found.append(x)
        return found

    def _apart(self, i: int, features: Float[Array, "b h w c"]) -> Float[Array, "k"]:
        weights = declare(self, f"weights_{i}", ones, (features.shape[-1],), ("patch",))
        a, b = jnp.split(unit(features), 2)
        return jnp.mean(jnp.sum(jnp.square(a - b) * weights, axis=-1), axis=(1, 2))


def unit(x: Float[Array, "*s c"]) -> Float[Array, "*s c"]:
    """x / (|x| + 1e-10), with a gradient of zero where x is zero."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    there = square > 0
    length = jnp.sqrt(jnp.where(there, square, 1.0))
    return jnp.where(there, x / (length + TINY), 0.0)
