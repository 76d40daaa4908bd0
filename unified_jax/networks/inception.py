r"""Inception v3 (Szegedy et al. 2015) as Frechet distances use it: the TensorFlow graph of 2015-12-05.

    conv    y = ReLU((x * W - mean) gain / sqrt(var + 1e-3) + bias)       batch norm with its running statistics

The 2015 graph differs from torchvision's network of the same name: average pools do not count the padding, the last
block's pool is a maximum, and there are 1008 classes. Features are taken

    block0   64     after the first max pool
    block1   192    after the second
    block2   768    after mixed_7 (6e)
    pool     2048   the mean over positions of mixed_10 (7c): FID, KID, precision and recall
    spatial  2023   the first 7 channels of the 1 x 1 convolution of mixed_6 (6d), flattened: sFID
    logits          pool W + b; the Inception score of the graph leaves b out

Inputs are `[b, 299, 299, 3]` in [-1, 1] (`evaluation.preprocessing`).
"""

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.precision import precision

Variant = Literal["fid", "torchvision"]
CLASSES: dict[Variant, int] = {"fid": 1008, "torchvision": 1000}
EPSILON = 1e-3
SPATIAL = 7
"""Channels of `spatial`."""


class ConvNorm(nn.Module):
    """A convolution without bias, batch norm with running statistics, ReLU."""

    features: int
    size: tuple[int, int]
    stride: int = 1
    pad: tuple[int, int] = (0, 0)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b r s k"]:
        """`[b, h, w, c]` to `[b, h', w', features]`."""
        shape = (*self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        gain, bias = self.param("gain", ones, (self.features,)), self.param("bias", zeros, (self.features,))
        mean, variance = self.param("mean", zeros, (self.features,)), self.param("variance", ones, (self.features,))
        y = jax.lax.conv_general_dilated(
            x, kernel, (self.stride, self.stride), [(p, p) for p in self.pad],
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision(x.dtype),
        )  # fmt: skip
        scale = gain * jax.lax.rsqrt(variance + EPSILON)
        return nn.relu((y - mean) * scale + bias)


def max_pool(x: Float[Array, "b h w c"], stride: int = 2, pad: int = 0) -> Float[Array, "b r s c"]:
    """The maximum over 3 x 3."""
    around: Any = [(pad, pad)] * 2
    return nn.max_pool(x, (3, 3), (stride, stride), around)


def mean_pool(x: Float[Array, "b h w c"], counts_padding: bool) -> Float[Array, "b h w c"]:
    """The mean over 3 x 3 around each position."""
    around: Any = [(1, 1)] * 2
    return nn.avg_pool(x, (3, 3), (1, 1), around, count_include_pad=counts_padding)


Branch = Sequence[tuple[str, int, tuple[int, int], int]]
"""Convolutions in a row: (name, features, size, stride); stride 1 keeps the sizes."""


def chain(x: Float[Array, "b h w c"], branch: Branch) -> Float[Array, "b r s k"]:
    """Convolutions one after the other, inside the calling module."""
    for name, features, size, stride in branch:
        pad = ((size[0] - 1) // 2, (size[1] - 1) // 2) if stride == 1 else (0, 0)
        x = ConvNorm(features, size, stride, pad, name=name)(x)
    return x


class Mixed(nn.Module):
    """Branches side by side, then a pooled one: their channels joined."""

    branches: tuple[Branch, ...]
    pooled: int = 0
    """Features of the convolution after the pool; 0: the stride-2 maximum as it is."""
    maximum: bool = False
    counts_padding: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b r s k"]:
        """All branches' channels, in order."""
        parts = [chain(x, branch) for branch in self.branches]
        if not self.pooled:
            return jnp.concatenate([*parts, max_pool(x)], axis=-1)
        pool = max_pool(x, 1, 1) if self.maximum else mean_pool(x, self.counts_padding)
        return jnp.concatenate([*parts, chain(pool, [("branch_pool", self.pooled, (1, 1), 1)])], axis=-1)


class Split(nn.Module):
    """The last kind of block: two of its branches end in two convolutions side by side."""

    maximum: bool
    counts_padding: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w k"]:
        """All branches' channels, in order."""
        parts = [chain(x, [("branch1x1", 320, (1, 1), 1)])]
        for name, head in (
            ("branch3x3", [("branch3x3_1", 384, (1, 1), 1)]),
            ("branch3x3dbl", [("branch3x3dbl_1", 448, (1, 1), 1), ("branch3x3dbl_2", 384, (3, 3), 1)]),
        ):
            y, number = chain(x, head), 2 if name == "branch3x3" else 3
            parts.append(chain(y, [(f"{name}_{number}a", 384, (1, 3), 1)]))
            parts.append(chain(y, [(f"{name}_{number}b", 384, (3, 1), 1)]))
        pool = max_pool(x, 1, 1) if self.maximum else mean_pool(x, self.counts_padding)
        return jnp.concatenate([*parts, chain(pool, [("branch_pool", 192, (1, 1), 1)])], axis=-1)


def small(pooled: int) -> tuple[tuple[Branch, ...], int]:
    """Branches of the blocks at 35 x 35."""
    return (
        [("branch1x1", 64, (1, 1), 1)],
        [("branch5x5_1", 48, (1, 1), 1), ("branch5x5_2", 64, (5, 5), 1)],
        [("branch3x3dbl_1", 64, (1, 1), 1), ("branch3x3dbl_2", 96, (3, 3), 1), ("branch3x3dbl_3", 96, (3, 3), 1)],
    ), pooled


def middle(c: int) -> tuple[Branch, ...]:
    """Branches of the blocks at 17 x 17."""
    return (
        [("branch1x1", 192, (1, 1), 1)],
        [("branch7x7_1", c, (1, 1), 1), ("branch7x7_2", c, (1, 7), 1), ("branch7x7_3", 192, (7, 1), 1)],
        [
            ("branch7x7dbl_1", c, (1, 1), 1), ("branch7x7dbl_2", c, (7, 1), 1), ("branch7x7dbl_3", c, (1, 7), 1),
            ("branch7x7dbl_4", c, (7, 1), 1), ("branch7x7dbl_5", 192, (1, 7), 1),
        ],
    )  # fmt: skip


STEM: tuple[tuple[str, int, int, int], ...] = (
    ("Conv2d_1a_3x3", 32, 2, 0), ("Conv2d_2a_3x3", 32, 1, 0), ("Conv2d_2b_3x3", 64, 1, 1),
)  # fmt: skip
"""(name, features, stride, padding) of the first convolutions."""
SHRINKING: tuple[tuple[Branch, ...], ...] = (
    (
        [("branch3x3", 384, (3, 3), 2)],
        [("branch3x3dbl_1", 64, (1, 1), 1), ("branch3x3dbl_2", 96, (3, 3), 1), ("branch3x3dbl_3", 96, (3, 3), 2)],
    ),
    (
        [("branch3x3_1", 192, (1, 1), 1), ("branch3x3_2", 320, (3, 3), 2)],
        [
            ("branch7x7x3_1", 192, (1, 1), 1), ("branch7x7x3_2", 192, (1, 7), 1), ("branch7x7x3_3", 192, (7, 1), 1),
            ("branch7x7x3_4", 192, (3, 3), 2),
        ],
    ),
)  # fmt: skip
"""Branches of the two blocks that halve the sizes."""


class Inception(nn.Module):
    """Inception v3 for features."""

    variant: Variant = "fid"
    """The graph of 2015, or torchvision's network."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "b ..."]]:
        """The features of the module docstring, by name; block0 to block2 as maps."""
        counted = self.variant == "torchvision"
        for name, features, stride, pad in STEM:
            x = ConvNorm(features, (3, 3), stride, (pad, pad), name=name)(x)
        found = {"block0": max_pool(x)}
        x = ConvNorm(80, (1, 1), name="Conv2d_3b_1x1")(found["block0"])
        x = found["block1"] = max_pool(ConvNorm(192, (3, 3), name="Conv2d_4a_3x3")(x))
        for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = Mixed(*small(pooled), counts_padding=counted, name=name)(x)
        x = Mixed(SHRINKING[0], name="Mixed_6a")(x)
        for name, c in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = Mixed(middle(c), 192, counts_padding=counted, name=name)(x)
            if name == "Mixed_6d":
                found["spatial"] = x[..., :SPATIAL].reshape(len(x), -1)
        found["block2"] = x
        x = Mixed(SHRINKING[1], name="Mixed_7a")(x)
        x = Split(False, counted, name="Mixed_7b")(x)
        x = Split(not counted, counted, name="Mixed_7c")(x)
        pool = found["pool"] = x.mean((1, 2))
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (2048, CLASSES[self.variant]))
        bias = self.param("bias", nn.initializers.zeros, (CLASSES[self.variant],))
        found["unbiased_logits"] = jnp.matmul(pool, kernel, precision=precision(pool.dtype))
        found["logits"] = found["unbiased_logits"] + bias
        return found
