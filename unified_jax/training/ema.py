r"""EMA: moving averages of the parameters, average_k = d_k average_{k-1} + (1 - d_k) params_k after step k = 1, 2, ...

    constant    d = decay
    ratio       d = min(decay, (1 + s) / (10 + s)): so that a short run's EMA is not its initial value
    inverse     d = min(decay, 1 - (1 + s / inv_gamma)^-power) (diffusers' warm-up)
    power       d = (1 - 1 / k)^(gamma + 1): weights step i by i^gamma, so its width is a constant share of the run
    (Karras
                et al. 2024, eq. 2). gamma follows from that share: std = sqrt((gamma + 1) / ((gamma + 2)^2
                (gamma + 3))), about 0.05 to 0.15 (eq. 123). Snapshots of two such EMAs can be combined to any other
                one after training (`post_hoc_weights`).
    half-life   d = 2^(-1 / h), h = half_life (1 - cos(pi min(step / over, 1))) / 2: from 0 to half_life steps (R3GAN)

with s = max(0, k - 1 - after); d is 0 while s is 0, so that the EMA starts as the parameters; afterwards d is at least
`least`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclass(frozen=True)
class Ema:
    """An EMA of the parameters."""

    decay: float = 0.9999
    """Decay per step (not of 'power' and 'half-life')."""
    warmup: Literal["constant", "ratio", "inverse", "power", "half-life"] = "ratio"
    """How the decay grows at the start."""
    inv_gamma: float = 1.0
    """Length of the warm-up 'inverse'."""
    power: float = 2 / 3
    """Power of the warm-up 'inverse'."""
    std: float = 0.1
    """Width of 'power', as a share of the run."""
    after: int = 0
    """Steps (of 'ratio' and 'inverse') before averaging begins; until then the EMA equals the parameters."""
    least: float = 0.0
    """Smallest decay of 'ratio' and 'inverse'."""
    half_life: float = 1000.0
    """Steps of 'half-life' in which a weight halves, in the end."""
    over: int = 0
    """Steps of 'half-life' in which it grows from 0; 0: constant."""

    def __post_init__(self) -> None:
        if not (0 <= self.decay < 1 and 0 <= self.least < 1):
            raise ValueError(f"The decay of an EMA must lie in [0, 1), found {self.decay} (least {self.least}).")
        if self.inv_gamma <= 0 or self.power <= 0 or not 0 < self.std < 0.28:
            raise ValueError("An EMA needs inv_gamma > 0, power > 0 and a std in (0, 0.28).")
        if self.half_life <= 0 or self.over < 0:
            raise ValueError(f"An EMA needs half_life > 0 and over >= 0, found {self.half_life} and {self.over}.")

    def share(self, step: Array) -> Array:
        """d_k of the step with index `step` = k - 1, counted from 0."""
        s = jnp.maximum(0.0, step - self.after)
        match self.warmup:
            case "constant":
                return jnp.full_like(s, self.decay)
            case "power":
                return (1.0 - 1.0 / (step + 1.0)) ** (power_of(self.std) + 1.0)
            case "half-life":
                grown = 0.5 * (1.0 - jnp.cos(jnp.pi * jnp.minimum(step / self.over, 1.0))) if self.over else 1.0
                return jnp.exp2(-1.0 / jnp.maximum(self.half_life * grown + 0.0 * step, 1e-8))
            case "ratio":
                grown = (1.0 + s) / (10.0 + s)
            case "inverse":
                grown = 1.0 - (1.0 + s / self.inv_gamma) ** -self.power
        return jnp.where(s > 0, jnp.clip(grown, self.least, max(self.decay, self.least)), 0.0)

    def update(self, average: Any, params: Any, step: Array) -> Any:
        """The EMA (a tree like `params`) after the step that produced `params`; `step` counts from 0."""
        share = self.share(jnp.asarray(step, jnp.result_type(float)))
        return jax.tree.map(lambda a, p: share * a + (1.0 - share) * p, average, params)


def power_of(std: float) -> float:
    """gamma whose EMA has this width (Karras et al. 2024, algorithm 2): the root of a cubic."""
    t = std**-2
    roots = np.roots([1.0, 7.0, 16.0 - t, 12.0 - t])
    return float(roots.real.max())


def post_hoc_weights(
    steps: Float[np.ndarray, "n"], stds: Float[np.ndarray, "n"], wanted_step: float, wanted_std: float
) -> Float[np.ndarray, "n"]:
    """Weights of stored 'power' EMAs (taken at `steps`, of widths `stds`) whose sum is closest to another one.

    Least squares between the EMAs' profiles over the run (Karras et al. 2024, algorithm 3).
    """
    gammas = np.asarray([power_of(s) for s in stds])
    a = _overlap(steps[:, None], gammas[:, None], steps[None], gammas[None])
    b = _overlap(steps, gammas, np.asarray(wanted_step), np.asarray(power_of(wanted_std)))
    return np.linalg.lstsq(a, b, rcond=None)[0]


def _overlap(t1: np.ndarray, g1: np.ndarray, t2: np.ndarray, g2: np.ndarray) -> np.ndarray:
    """int of p(t; t1, g1) p(t; t2, g2), p(t; T, g) = (g + 1) t^g / T^(g + 1) on [0, T]."""
    low, high = np.minimum(t1, t2), np.maximum(t1, t2)
    later = np.where(t1 < t2, g2, g1)  # a power of low / high alone: those of the times themselves are not finite
    return (g1 + 1) * (g2 + 1) / (g1 + g2 + 1) * (low / high) ** later / high
