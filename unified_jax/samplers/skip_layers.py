r"""Skip-layer guidance (Stable Diffusion 3.5): away from what the same network says without some of its blocks.

    eps = (guided eps) + s (e_c - e_skip)        at times u in (low, high]

e_c is the conditional prediction, e_skip that of the network whose blocks `layers` are left out, under the same
conditions. x0 is combined alike. A network says that it can by a field `skip`.

Times are the process's, after a plan's shift. The released pipeline counts steps: those after 1 % and before 20 % of
them, times u of (0.8, 0.99) before the shift of 3, which are (0.923, 0.997) after it.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.config import check_finite
from unified_jax.processes.targets import Prediction, Process, expand
from unified_jax.samplers.loop import Denoiser


@dataclass(frozen=True)
class SkipLayers:
    """Guidance away from a network without some blocks."""

    layers: tuple[int, ...] = (7, 8, 9)
    """Blocks that are left out (SD 3.5 medium: 7, 8 and 9)."""
    scale: float = 2.5
    """s; 0 is none."""
    low: float = 0.9231
    """Not at times (0 data, 1 noise) up to this."""
    high: float = 0.9966
    """Not above this time."""

    def __post_init__(self) -> None:
        check_finite(self)
        if not self.layers or min(self.layers) < 0 or self.scale < 0 or not 0 <= self.low <= self.high <= 1:
            raise ValueError(
                "Skip-layer guidance needs layers, scale >= 0 and 0 <= low <= high <= 1; found "
                f"{self.layers}, {self.scale}, {self.low} and {self.high}."
            )

    def at(self, u: Array) -> Array:
        """The scale at time u in [0, 1], shaped as u."""
        return jnp.where((u > self.low) & (u <= self.high), self.scale, 0.0)


def away(guided: Denoiser, conditional: Denoiser, skipping: Denoiser, process: Any, skip: SkipLayers) -> Denoiser:
    """The guided denoiser, with the difference of the conditional one to the one that skips blocks."""

    def leaf(p: Process, g: Prediction, c: Prediction, k: Prediction, x: Array, t: Array) -> Prediction:
        scale = expand(skip.at(p.unit_time(t)), x)
        return Prediction(g.x0 + scale * (c.x0 - k.x0), g.eps + scale * (c.eps - k.eps), g.log_variance)

    def denoise(x: Any, t: Any) -> Any:
        return jax.tree.map(leaf, process, guided(x, t), conditional(x, t), skipping(x, t), x, t)

    return denoise
