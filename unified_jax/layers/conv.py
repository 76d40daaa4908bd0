"""Convolutions over any number of axes, channels last; by default zero-padded to keep the sizes."""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from unified_jax.kernels.device import device
from unified_jax.kernels.elementwise import add_bias
from unified_jax.kernels.product import applies, matmul
from unified_jax.layers.init import declare, ones, xavier, zeros
from unified_jax.precision import precision

Pads = tuple[tuple[int, int], ...]
"""Zeros before and after each axis."""
WIDE = 64
"""Channels and features from which a kernel's gradient is a product for each tap on a CPU (`_wide`)."""


class Conv(nn.Module):
    """A convolution of size 3 along every axis, or of the stride's size if it is above 1."""

    features: int
    stride: tuple[int, ...] = ()
    zero: bool = False
    """Zero initialisation."""
    size: tuple[int, ...] = ()
    """Size of the kernel; (): as above."""
    pads: Pads | None = None
    """Zeros around; None: one on either side of axes of stride 1, none elsewhere."""
    groups: int = 1
    """Groups of channels; the features of a group see its channels alone."""
    dilation: tuple[int, ...] = ()
    """Distance between the kernel's taps; (): 1."""
    bias: bool = True
    """Whether a bias is added."""
    dtype: DTypeLike | None = None
    """Compute dtype; None: the input's."""
    axes: tuple[str | None, str | None] = (None, "patch")
    """Logical axes of the input's channels and of the features."""

    @nn.compact
    def __call__(self, x: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """`[n, *sizes, c]` to `[n, *(sizes / stride), features]`."""
        axes = x.ndim - 2
        stride = self.stride or (1,) * axes
        size = self.size or tuple(3 if step == 1 else step for step in stride)
        shape = (*size, x.shape[-1] // self.groups, self.features)
        init = zeros if self.zero else xavier(math.prod(shape[:-1]), self.features)
        kernel = declare(self, "kernel", init, shape, (*(None,) * axes, *self.axes))
        dtype = x.dtype if self.dtype is None else self.dtype
        x, kernel = x.astype(dtype), kernel.astype(dtype)
        y = convolve(x, kernel, stride, self.pads, self.groups, self.dilation)
        return add_bias(y, declare(self, "bias", zeros, (self.features,), self.axes[1:])) if self.bias else y


def convolve(
    x: Float[Array, "n ..."],
    kernel: Float[Array, "..."],
    stride: tuple[int, ...],
    pads: Pads | None = None,
    groups: int = 1,
    dilation: tuple[int, ...] = (),
) -> Float[Array, "n ..."]:
    """The convolution of `Conv`, as sums of convolutions over two axes.

    On a CPU the compiler's own gradient over three axes takes forty times as long, and so it is with wide kernels over
    large maps (`_wide`); and it has bfloat16 instructions for matrix products alone, so one without groups is a product
    there.
    """
    axes = x.ndim - 2
    pads = tuple((1, 1) if step == 1 else (0, 0) for step in stride) if pads is None else pads
    apart = dilation or (1,) * axes
    if axes <= 2 and groups == 1 and applies(x.dtype):
        return _by_a_product(x, kernel, stride, pads, apart)
    if axes <= 2 and groups == 1 and min(kernel.shape[-2:]) >= WIDE and device()[0] == "cpu":
        return _wide(x, kernel, stride, pads, apart)
    if axes <= 2:
        return _plain(x, kernel, stride, pads, groups, apart)
    x = jnp.pad(x, [(0, 0), pads[0], *[(0, 0)] * axes])
    slices = (x.shape[1] - apart[0] * (kernel.shape[0] - 1) - 1) // stride[0] + 1
    total = jnp.zeros(())
    for i in range(kernel.shape[0]):
        at = i * apart[0]
        part = x[:, at : at + stride[0] * (slices - 1) + 1 : stride[0]]
        y = convolve(part.reshape(-1, *part.shape[2:]), kernel[i], stride[1:], pads[1:], groups, apart[1:])
        total = total + y.reshape(*part.shape[:2], *y.shape[1:])
    return total


def _plain(x: Array, kernel: Array, stride: tuple[int, ...], pads: Pads, groups: int, apart: tuple[int, ...]) -> Array:
    letters = "HW"[-(x.ndim - 2) :]
    layout = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return jax.lax.conv_general_dilated(
        x, kernel, stride, pads, rhs_dilation=apart, dimension_numbers=layout, feature_group_count=groups,
        precision=precision(x.dtype),
    )  # fmt: skip


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _wide(x: Array, kernel: Array, stride: tuple[int, ...], pads: Pads, apart: tuple[int, ...]) -> Array:
    """A convolution whose gradient by the kernel is a product for each tap.

    The compiler's own is a convolution with a kernel of the map's size. On one AVX2 core the whole gradient of 64
    features at 64 x 64 took two to three times as long with it, and eleven times inside a loop (microbatches).
    """
    return _plain(x, kernel, stride, pads, 1, apart)


@functools.partial(_wide.defjvp, symbolic_zeros=True)
def _tangent_of_wide(
    stride: tuple[int, ...], pads: Pads, apart: tuple[int, ...], primals: Any, tangents: Any
) -> tuple[Array, Any]:
    (x, kernel), (dx, dk) = primals, tangents
    y = _wide(x, kernel, stride, pads, apart)
    still = [isinstance(one, SymbolicZero) for one in tangents]
    parts = [] if still[0] else [_wide(dx, kernel, stride, pads, apart)]
    if not still[1]:
        taps = _taps(x, kernel.shape[:-2], stride, pads, apart)
        each = [jnp.matmul(seen, dk[tap], precision=precision(x.dtype)) for tap, seen in taps]
        parts.append(functools.reduce(jnp.add, each))
    return y, functools.reduce(jnp.add, parts) if parts else jnp.zeros_like(y)


def _taps(
    x: Array, size: tuple[int, ...], stride: tuple[int, ...], pads: Pads, apart: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], Array]]:
    """(tap, what it sees at every place) of a kernel of this size."""
    reach = [at * (taps - 1) + 1 for taps, at in zip(size, apart, strict=True)]
    sizes = [
        (length + sum(pad) - seen) // step + 1
        for length, pad, seen, step in zip(x.shape[1:-1], pads, reach, stride, strict=True)
    ]
    wide = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    for tap in itertools.product(*map(range, size)):
        cut = [
            slice(t * at, t * at + step * (n - 1) + 1, step)
            for t, at, step, n in zip(tap, apart, stride, sizes, strict=True)
        ]
        yield tap, wide[:, *cut]


def _by_a_product(x: Array, kernel: Array, stride: tuple[int, ...], pads: Pads, apart: tuple[int, ...]) -> Array:
    """What the taps see, side by side, times the kernel. The backward pass gathers it again, rather than keep it."""
    size = kernel.shape[:-2]

    def run(x: Array, kernel: Array) -> Array:
        # In float32, so that gradients add up there.
        seen = [part for _, part in _taps(x.astype(jnp.float32), size, stride, pads, apart)]
        beside = jnp.concatenate(seen, axis=-1).astype(x.dtype).reshape(-1, len(seen) * x.shape[-1])
        return matmul(beside, kernel.reshape(-1, kernel.shape[-1])).reshape(*seen[0].shape[:-1], kernel.shape[-1])

    return run(x, kernel) if math.prod(size) == 1 else jax.checkpoint(run)(x, kernel)


class GroupNorm(nn.Module):
    """GroupNorm (Wu and He 2018): over all positions and the channels of a group, with gain and bias, float32."""

    groups: int = 8
    eps: float = 1e-5
    axis: str = "patch"
    """Logical axis of the gain and the bias."""

    @nn.compact
    def __call__(self, x: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """The largest number of groups, at most `groups`, that divides the channels."""
        channels = x.shape[-1]
        groups = math.gcd(self.groups, channels)
        h = x.astype(jnp.float32)
        h = h - at_channels(group_mean(h, groups), h)
        gain = declare(self, "gain", ones, (channels,), (self.axis,))
        scale = at_channels(jax.lax.rsqrt(group_mean(jnp.square(h), groups) + self.eps), h) * gain
        return h * scale + declare(self, "bias", zeros, (channels,), (self.axis,))


def group_mean(x: Float[Array, "n *s c"], groups: int) -> Float[Array, "n g"]:
    """The mean over all positions and the channels of a group.

    Positions come first: on a CPU the gradient of one mean over both takes several times as long.
    """
    each = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
    return jnp.mean(each.reshape(len(x), groups, -1), axis=2)


def at_channels(of_groups: Float[Array, "n g"], x: Float[Array, "n *s c"]) -> Float[Array, "n ... c"]:
    """Each group's number at each of its channels, to be broadcast over the positions of x."""
    spread = jnp.repeat(of_groups, x.shape[-1] // of_groups.shape[1], axis=1)
    return spread.reshape(len(x), *(1,) * (x.ndim - 2), x.shape[-1])
