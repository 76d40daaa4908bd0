r"""A ControlNet (Zhang et al. 2023): a copy of a U-Net's way down and middle that reads a map, the hint, too.

    x     = conv_in(x_t) + zero(SiLU(conv(... hint)))          convolutions halve the hint to the size of x_t
    kept  = the way down of x,    y = the middle
    residuals   s zero_i(kept_i),  s zero(y)                   1 x 1 convolutions that are zero at the start

The U-Net adds the residuals to its own maps before its way up, so that at the start it computes what it computed. With
`guess`, for drawing by the hint alone, s grows over the maps from 1/10 to 1 in even ratios. `Controlled` is the two as
one network: with `Tuning(train=("^control/",))` the U-Net stays as it is.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.errors import UserError
from unified_jax.interop.unets import Layout
from unified_jax.layers.conditions import filled
from unified_jax.layers.conv import Conv
from unified_jax.layers.form import ConditionInput, Kind, NoisyInput, only_stream
from unified_jax.layers.init import zeros
from unified_jax.layers.mlp import Dense
from unified_jax.networks.unet.blocks import Style, conv
from unified_jax.networks.unet.conditional import DEFAULTS as UNET, conditional
from unified_jax.networks.unet.levels import Residuals, descend, middle
from unified_jax.networks.unet.network import UNet


class Hint(nn.Module):
    """A map of the size of the picture as features at the size of x_t."""

    channels: tuple[int, ...]
    """Features of each size, the picture's first; between two the map is halved."""
    features: int
    """Features of the result, which is zero at the start."""
    style: Style

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b r s k"]:
        """The features."""
        style = self.style
        h = jax.nn.silu(conv(self.channels[0], "conv_in", style)(x))
        for i, (here, there) in enumerate(zip(self.channels, self.channels[1:], strict=False)):
            h = jax.nn.silu(conv(here, f"blocks_{2 * i}", style)(h))
            down = Conv(
                there, (2, 2), size=(3, 3), pads=((1, 1), (1, 1)), dtype=style.dtype, axes=(None, "embed"),
                name=f"blocks_{2 * i + 1}",
            )  # fmt: skip
            h = jax.nn.silu(down(h))
        return conv(self.features, "conv_out", style, zero=True)(h)


class ControlNet(UNet):
    """The copy, with the fields of its U-Net; `up` is not built."""

    hint: tuple[int, ...] = (16, 32, 96, 256)
    """Features of the hint's convolutions, one for each halving and one before."""
    hinted: str = "hint"
    """Name of the condition, a map, that is the hint."""
    guess: bool = False
    """Whether the residuals grow over the maps, from 1/10 to 1."""

    @nn.compact
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, noisy: tuple[NoisyInput, ...], conditions: tuple[ConditionInput, ...] = (), *, layout: Any = None,
        scale: float = 1.0,
    ) -> Residuals:  # fmt: skip
        """The residuals, times `scale`. Raises UserError without a hint, or for one of another size."""
        one = only_stream("ControlNet", noisy, layout)
        hints = [shown for shown in conditions if shown.form.name == self.hinted]
        if len(hints) != 1:
            raise UserError(f"A ControlNet reads a map called {self.hinted!r}; give it.")
        given = tuple(filled(self, shown) for shown in conditions if shown.form.name != self.hinted)
        shared = self._shared(one, given)
        x = conv(self.down[0].channels, "conv_in", shared.style, size=self.input_size)(self._input(one, given))
        seen = Hint(self.hint, self.down[0].channels, shared.style, name="hint")(filled(self, hints[0]).value)
        if seen.shape != x.shape:
            raise UserError(
                f"A hint of {list(hints[0].value.shape[1:3])} is halved {len(self.hint) - 1} times to "
                f"{list(seen.shape[1:3])}, and what is denoised has {list(x.shape[1:3])}."
            )
        y, kept, _ = descend(x + seen.astype(x.dtype), self.down, shared)
        if self.middle is not None:
            level = dataclasses.replace(self.middle, channels=self.down[-1].channels)
            y = middle(y, level, shared, self.middle_scale, self.middle_groups)
        sizes = [scale * 10 ** (i / len(kept) - 1) if self.guess else scale for i in range(len(kept) + 1)]
        made = [self._zero(f"zero_{i}", h, s) for i, (h, s) in enumerate(zip(kept, sizes, strict=False))]
        return Residuals(tuple(made), self._zero("zero_middle", y, sizes[-1]))

    def _zero(self, name: str, x: Array, scale: float) -> Array:
        return scale * Dense(x.shape[-1], (None, "embed"), zeros, dtype=jnp.dtype(self.dtype), name=name)(x)


class Controlled(nn.Module):
    """A U-Net with a ControlNet: a backbone with one map more among its conditions."""

    base: UNet
    """The U-Net."""
    control: ControlNet
    """The ControlNet."""
    scale: float = 1.0
    """Factor of the residuals."""
    takes: ClassVar[tuple[Kind, ...]] = UNet.takes
    streams: ClassVar[Literal["one"]] = "one"
    weighs: ClassVar[bool] = True

    def begins_as(self, path: str) -> str:
        """See `Grafted`: the U-Net, and the copy, start from the U-Net that was trained alone."""
        return path.removeprefix("base/").removeprefix("control/")

    @nn.compact
    def __call__(
        self, noisy: tuple[NoisyInput, ...], conditions: tuple[ConditionInput, ...] = (), *, layout: Any = None,
        capture: tuple[str, ...] = (),
    ) -> tuple[dict[str, Float[Array, "b ..."]], dict[str, Array]]:  # fmt: skip
        """See `Backbone`."""
        residuals = self.control(noisy, conditions, layout=layout, scale=self.scale)
        rest = tuple(shown for shown in conditions if shown.form.name != self.control.hinted)
        return self.base(noisy, rest, layout=layout, capture=capture, residuals=residuals)


def control_of(network: UNet, hint: tuple[int, ...] = (16, 32, 96, 256), guess: bool = False) -> ControlNet:
    """The ControlNet of a U-Net."""
    fields = {f.name: getattr(network, f.name) for f in dataclasses.fields(network) if f.name not in ("parent", "name")}
    return ControlNet(**fields, hint=hint, guess=guess)


DEFAULTS: dict[str, Any] = {
    "conditioning_embedding_out_channels": [16, 32, 96, 256], "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False, "norm_num_groups": 32,
}  # fmt: skip
"""Options of diffusers' ControlNetModel beside those of its U-Net."""


def controlnet(config: Mapping[str, Any], guess: bool = False) -> tuple[ControlNet, Layout]:
    """(the network, the layout of its published weights) of a configuration of diffusers' ControlNetModel.

    Raises UserError for an option that is not served.
    """
    own = DEFAULTS | {name: value for name, value in config.items() if name in DEFAULTS}
    for name in ("controlnet_conditioning_channel_order", "global_pool_conditions"):
        if own[name] != DEFAULTS[name]:
            raise UserError(f"A ControlNet's option {name} = {own[name]!r} is not served; expected {DEFAULTS[name]!r}.")
    kinds = config.get("down_block_types", UNET["down_block_types"])
    up = [kind.replace("Down", "Up") for kind in kinds[::-1]]
    network, layout = conditional({**config, "up_block_types": up})
    return control_of(network, tuple(own["conditioning_embedding_out_channels"]), guess), layout
