r"""Grids of times: falling arrays `[k + 1]`, the first entry noise, the last data. A sampler takes one as an argument.

Continuous time: uniform from 1 to 0, with the resolution shift t' = s t / (1 + (s - 1) t) (Esser et al. 2024, section
5.3.2; s > 1 spends more steps near noise). Noise levels s = sigma / alpha, k of them from `high` down to `low`, and
then 0:

    Karras          (high^(1/rho) + i / (k - 1) (low^(1/rho) - high^(1/rho)))^rho, rho = 7 (Karras et al. 2022, eq. 5)
    exponential     even in log s
    beta            even in the quantiles of Beta(0.6, 0.6) (Lee et al. 2024, "Beta Sampling is All You Need")

Discrete time: indices of the chain and then -1, the data. The steps of a chain of T that a sampler of k visits, falling
(Lin et al. 2023, table 2): "linspace" 0 ... T - 1 even, both ends; "leading" multiples of T // k, which leave out the
end of the chain; "trailing" T - 1 and down by T / k, which is right for chains of zero terminal SNR.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from unified_jax.processes.times import shift_times

Spacing = Literal["linspace", "leading", "trailing"]


def uniform_grid(steps: int, shift: float = 1.0, start: float = 1.0, end: float = 0.0) -> Float[np.ndarray, "k"]:
    """`steps` + 1 times from start to end, shifted. Raises ValueError unless steps >= 1 and 1 >= start > end >= 0."""
    if steps < 1:
        raise ValueError(f"A grid needs at least one step, found {steps}.")
    if not 1.0 >= start > end >= 0.0:
        raise ValueError(f"A grid falls from start to end within [0, 1], found start {start}, end {end}.")
    if shift <= 0:
        raise ValueError(f"The shift of a grid must be positive, found {shift}.")
    return shift_times(np.linspace(start, end, steps + 1), shift)


def discrete_grid(length: int) -> Int[np.ndarray, "k"]:
    """length - 1, ..., 0, -1: a whole chain, every index once."""
    return np.arange(length - 1, -2, -1, dtype=np.int32)


def spaced_steps(total: int, steps: int, spacing: Spacing, offset: int = 0) -> Float[np.ndarray, "k"]:
    """`steps` steps of a chain of `total`, falling; "linspace" has fractions. Raises ValueError for more than there
    are.

    `offset` is added to "leading" (Stable Diffusion was sampled with 1).
    """
    if not 1 <= steps <= total:
        raise ValueError(f"A sampler visits 1 to {total} of {total} steps, found {steps}.")
    match spacing:
        case "linspace":
            return np.linspace(0, total - 1, steps)[::-1]
        case "leading":
            return np.arange(steps)[::-1] * float(total // steps) + offset
        case "trailing":
            return np.round(np.arange(total, 0, -total / steps)) - 1.0


def karras_levels(low: float, high: float, steps: int, rho: float = 7.0) -> Float[np.ndarray, "k"]:
    """`steps` levels from high to low, without the 0 at the end."""
    ramp = np.linspace(0.0, 1.0, steps)
    return (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def exponential_levels(low: float, high: float, steps: int) -> Float[np.ndarray, "k"]:
    """`steps` levels from high to low, even in their logarithm."""
    return np.exp(np.linspace(np.log(high), np.log(low), steps))


def beta_levels(low: float, high: float, steps: int, a: float = 0.6, b: float = 0.6) -> Float[np.ndarray, "k"]:
    """`steps` levels from high to low, at even quantiles of a beta distribution."""
    from scipy.stats import beta  # slow to import, and only needed here

    return low + beta.ppf(1.0 - np.linspace(0.0, 1.0, steps), a, b) * (high - low)
