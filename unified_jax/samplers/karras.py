r"""EDM's stochastic sampler, for processes whose time is the noise level (Edm, NoiseLevels).

Karras et al. 2022, algorithm 2:

    gamma  = min(churn / steps, sqrt(2) - 1) where low <= sigma <= high, else 0
    sigma^ = (1 + gamma) sigma,      x^ = x + sqrt(sigma^2^ - sigma^2) noise z
    d      = (x^ - D(x^; sigma^)) / sigma^ = eps_hat
    x'     = x^ + (sigma' - sigma^) d,      then Heun's correction unless sigma' = 0

Without churn it is algorithm 1, Heun's method. `order` 1 omits the correction.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from unified_jax.config import check_finite
from unified_jax.samplers.loop import Denoiser, Draw, at_time, normal_like, step_pairs
from unified_jax.typing import Keys


@dataclass(frozen=True)
class Churn:
    """The noise added before each step."""

    churn: float = 0.0
    """S_churn; 0 is deterministic."""
    low: float = 0.0
    """S_min: no noise below this noise level."""
    high: float = float("inf")
    """S_max: no noise above this noise level."""
    noise: float = 1.0
    """S_noise: factor on the standard deviation of the added noise."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.churn < 0 or self.noise < 0 or not 0 <= self.low <= self.high:
            raise ValueError(
                f"Churn needs churn >= 0, noise >= 0 and 0 <= low <= high, found {self.churn}, {self.noise}, "
                f"{self.low} and {self.high}."
            )

    def gamma(self, sigma: Array, steps: int) -> Array:
        """Relative increase of a noise level."""
        gamma = min(self.churn / steps, np.sqrt(2.0) - 1.0)
        return jnp.where((sigma >= self.low) & (sigma <= self.high), gamma, 0.0)


def karras(
    denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys, churn: Churn = Churn(), order: int = 2,
    draw: Draw = normal_like,
) -> Any:  # fmt: skip
    """Integrates x `[b, ...]` from the grid's first noise level to its last; two denoiser calls per step."""
    here, there = step_pairs(process, grid)
    count = jax.tree.leaves(here)[0].shape[0]

    def slope(x: Any, t: Any) -> Any:
        said = denoise(x, at_time(process, t, x))
        return jax.tree.map(lambda _, prediction: prediction.eps, process, said)

    def forward(x: Any, d: Any, t: Any, s: Any) -> Any:
        return jax.tree.map(lambda _, value, rate, a, b: value + (b - a) * rate, process, x, d, t, s)

    def churned(x: Any, t: Any, i: Any) -> tuple[Any, Any]:
        higher = jax.tree.map(lambda level: level * (1.0 + churn.gamma(level, count)), t)
        if churn.churn == 0:
            return x, t

        def leaf(_: Any, value: Array, z: Array, level: Array, up: Array) -> Array:
            return value + churn.noise * jnp.sqrt(jnp.maximum(up**2 - level**2, 0.0)) * z

        return jax.tree.map(leaf, process, x, draw(keys, i, x), t, higher), higher

    def body(x: Any, inputs: Any) -> tuple[Any, None]:
        i, t, s = inputs
        x, t = churned(x, t, i)
        first = slope(x, t)
        if order == 1:
            return forward(x, first, t, s), None
        second = slope(forward(x, first, t, s), s)
        return forward(x, jax.tree.map(lambda a, b: 0.5 * (a + b), first, second), t, s), None

    if order == 1:
        return jax.lax.scan(body, x, (jnp.arange(count), here, there))[0]
    inner = jax.tree.map(lambda g: g[:-1], (here, there))
    x = jax.lax.scan(body, x, (jnp.arange(count - 1), *inner))[0]
    last_t, last_s = jax.tree.map(lambda g: g[-1], (here, there))
    x, last_t = churned(x, last_t, jnp.asarray(count - 1))
    return forward(x, slope(x, last_t), last_t, last_s)
