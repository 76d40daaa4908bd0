r"""A backbone whose last look is local: a small convolutional network corrects what the backbone predicts at low noise.

    y     = backbone(x_t, t, conditions)
    z     = conv([y, x_t]),   pixels of a square joined as channels
    z    += conv_0(SiLU(conv(SiLU(z (1 + scale) + shift))))            scale, shift = Linear(SiLU(time(t))), some blocks
    out   = y + [t < below] conv_0(SiLU(z))                            conv_0 is zero at the start: out = y

Patches of a transformer leave edges soft: a width of 192 has to carry 192 numbers of every patch, and the last bit of
noise is removed best by what looks at neighbouring pixels. At low noise the picture is there already, so that the
correction needs neither the conditions nor the whole; at high noise it is not used, for it would change shapes. In
training it acts at a little more noise than in sampling, and the backbone does not see the gradient of the output: its
own prediction is one of `guesses` (`layers.form.Supervised`), has the loss that it has alone, and learns what it learns
alone. Experts for shares of the noise are those of Balaji et al. 2022 (eDiff-I, arXiv 2211.01324), a loss for an
earlier output deep supervision (Lee et al. 2015).
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.config import Open
from unified_jax.kernels.elementwise import activate
from unified_jax.layers.conv import Conv
from unified_jax.layers.embeddings import TimeEmbedding
from unified_jax.layers.form import Backbone, ConditionInput, Kind, NoisyInput, only_stream
from unified_jax.layers.mlp import Dense
from unified_jax.modalities.grid import patchify, unpatchify


class Correction(nn.Module):
    """What is added to a prediction, from it and the noisy array."""

    features: int
    blocks: int
    cut: int
    dtype: Literal["float32", "bfloat16"]

    @nn.compact
    def __call__(
        self, y: Float[Array, "b h w k"], x_t: Float[Array, "b h w c"], t: Float[Array, "b"]
    ) -> Float[Array, "b h w k"]:
        """Of the prediction's shape; zero at the start."""
        dtype, squares, sizes = jnp.dtype(self.dtype), (self.cut, self.cut), (y.shape[1], y.shape[2])
        grid = (sizes[0] // self.cut, sizes[1] // self.cut)
        c = nn.silu(TimeEmbedding(self.features, name="time")(t))[:, None, None]
        seen = patchify(jnp.concatenate([y, x_t], axis=-1), squares).reshape(len(y), *grid, -1)
        z = self._conv("in")(seen.astype(dtype))
        for i in range(self.blocks):
            scale, shift = jnp.split(Dense(2 * self.features, (None, "embed"), name=f"modulation_{i}")(c), 2, axis=-1)
            h = activate(lambda z, a, b: nn.silu(z * (1 + a) + b), z, scale.astype(dtype), shift.astype(dtype))
            h = activate(nn.silu, self._conv(f"conv1_{i}")(h))
            z = z + self._conv(f"conv2_{i}", zero=True)(h)
        out = Conv(y.shape[-1] * self.cut**2, size=(1, 1), pads=((0, 0), (0, 0)), zero=True, name="out")
        out = out(activate(nn.silu, z))
        return unpatchify(out.astype(jnp.float32).reshape(len(y), grid[0] * grid[1], -1), sizes, squares)

    def _conv(self, name: str, zero: bool = False) -> Conv:
        return Conv(self.features, size=(3, 3), zero=zero, axes=(None, "embed"), name=name)


class Refined(nn.Module):
    """A backbone of one array of two axes, and the convolutions behind it."""

    trunk: Open[Backbone]
    """The backbone."""
    features: int = 64
    """Features of the convolutions."""
    blocks: int = 1
    """Residual blocks."""
    cut: int = 2
    """Side of the squares of pixels that are joined."""
    below: float = 120.0
    """Network time (`Process.network_time`, here from 0, data, to 1,000) below which the correction acts."""
    learns: float = 300.0
    """Network time below which it acts in training: more of a batch teaches it; at least `below`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the convolutions."""
    streams: ClassVar[Literal["one"]] = "one"
    guesses: ClassVar[tuple[str, ...]] = ("trunk",)

    def __post_init__(self) -> None:
        if min(self.features, self.blocks, self.cut) < 1:
            raise ValueError(
                "Refined.features, blocks and cut must be at least 1, found "
                f"{self.features}, {self.blocks} and {self.cut}."
            )
        if self.learns < self.below:
            raise ValueError(f"Refined.learns must be at least below {self.below:g}, found {self.learns:g}.")
        super().__post_init__()

    @property
    def takes(self) -> tuple[Kind, ...]:
        """What the backbone takes."""
        return self.trunk.takes

    @property
    def weighs(self) -> bool:
        """Whether the backbone does."""
        return getattr(self.trunk, "weighs", False)

    def begins_as(self, path: str) -> str:
        """See `Grafted`: the backbone starts from one that was trained alone."""
        return path.removeprefix("trunk/")

    @nn.compact
    def __call__(
        self, noisy: tuple[NoisyInput, ...], conditions: tuple[ConditionInput, ...] = (), *, layout: Any = None,
        capture: tuple[str, ...] = (),
    ) -> tuple[dict[str, Float[Array, "b ..."]], dict[str, Any]]:  # fmt: skip
        """See `Backbone`; captured["trunk"] is what the backbone predicts.

        Raises ValueError for an array that is not of two axes, or whose sizes `cut` does not divide.
        """
        one = only_stream("Refined", noisy, layout)
        name, sizes = one.form.name, one.form.shape[:-1]
        if len(sizes) != 2 or any(size % self.cut for size in sizes):
            raise ValueError(
                f"Refined corrects arrays of two axes whose sizes are multiples of its cut {self.cut}; {name!r} has "
                f"{' x '.join(str(size) for size in sizes)}."
            )
        asked = tuple(part for part in capture if part not in self.guesses)
        outputs, captured = self.trunk(noisy, conditions, layout=layout, capture=asked)
        guess = outputs[name]
        y, limit = (jax.lax.stop_gradient(guess), self.learns) if len(asked) < len(capture) else (guess, self.below)
        acts = (one.t < limit)[:, None, None, None]
        correction = Correction(self.features, self.blocks, self.cut, self.dtype, name="correction")
        out = y + jnp.where(acts, correction(y, one.x, one.t), 0.0)
        return {name: out}, captured | {p: guess for p in self.guesses if p in capture}
