r"""Beta schedules of discrete diffusion and the choice of a subsequence of steps. NumPy, float64.

linear          Ho et al. 2020 (DDPM), section 4: beta from 1e-4 to 0.02 over 1,000 steps; for another number of steps
                both ends are multiplied by 1000 / T (Nichol & Dhariwal 2021), so that abar_T stays near zero
scaled_linear   linear in sqrt(beta): latent diffusion (there 0.00085 to 0.012), called "quad" in the DDPM code
squared_cosine  Nichol & Dhariwal 2021, eq. 17: abar(t) = cos^2((t/T + 0.008) / 1.008 * pi/2), beta capped at 0.999
sigmoid         beta_start + (beta_end - beta_start) sigmoid(u), u from -6 to 6
constant, jsd, warmup10, warmup50: the other tables of the DDPM code (jsd: 1/T, 1/(T-1), ..., 1)
"""

from typing import Literal

import numpy as np
from jaxtyping import Float

Schedule = Literal["linear", "scaled_linear", "squared_cosine", "sigmoid", "constant", "jsd", "warmup10", "warmup50"]


def make_betas(schedule: Schedule, steps: int, start: float = 1e-4, end: float = 0.02) -> Float[np.ndarray, "t"]:
    """beta_1 ... beta_T, in (0, 1). `start` and `end` are used as given (no 1000 / T rescaling here).

    >>> make_betas("linear", 1000)[[0, -1]].tolist()
    [0.0001, 0.02]
    """
    match schedule:
        case "linear":
            return np.linspace(start, end, steps, dtype=np.float64)
        case "scaled_linear":
            return np.linspace(start**0.5, end**0.5, steps, dtype=np.float64) ** 2
        case "squared_cosine":
            t = np.arange(steps + 1, dtype=np.float64) / steps
            abar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
            return np.minimum(1.0 - abar[1:] / abar[:-1], 0.999)
        case "sigmoid":
            return start + (end - start) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, steps)))
        case "constant":
            return np.full(steps, end, dtype=np.float64)
        case "jsd":
            return 1.0 / np.arange(steps, 0, -1, dtype=np.float64)
        case "warmup10" | "warmup50":
            betas = np.full(steps, end, dtype=np.float64)
            ramp = int(steps * (0.1 if schedule == "warmup10" else 0.5))
            betas[:ramp] = np.linspace(start, end, ramp, dtype=np.float64)
            return betas


def zero_terminal_snr(betas: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """Shifts and scales sqrt(abar) so that abar_T = 0 and abar_1 is kept (Lin et al. 2023, algorithm 1)."""
    if len(betas) < 2:
        raise ValueError("zero_snr keeps the first step and moves the last: it needs at least two steps, found one.")
    root = np.sqrt(np.cumprod(1.0 - betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    abar = root**2
    return 1.0 - np.concatenate([abar[:1], abar[1:] / abar[:-1]])


def shift_betas(betas: Float[np.ndarray, "t"], shift: float) -> Float[np.ndarray, "t"]:
    """The resolution shift s: alpha / sigma becomes 1/s of itself, abar' = abar / (abar + s^2 (1 - abar)).

    An image of s times the side, at the same noise, tells s times as much: its neighbours average it (Hoogeboom et al.
    2023, section 2). With s the ratio of the sides, a patch is as uncertain as before.

    >>> abar = np.cumprod(1 - shift_betas(np.asarray([0.5]), 2.0))
    >>> abar.round(6).tolist()  # 0.5 / (0.5 + 4 * 0.5)
    [0.2]
    """
    abar = np.cumprod(1.0 - betas)
    abar = abar / (abar + shift**2 * (1.0 - abar))
    return 1.0 - abar / np.concatenate([[1.0], abar[:-1]])


def space_timesteps(steps: int, sections: str) -> tuple[int, ...]:
    """Indices kept by the respacing notation of Nichol & Dhariwal 2021.

    `"250"` spreads 250 indices over all steps, ends included; `"10,10,5"` divides the steps into three equal parts and
    spreads that many over each; `"ddim25"` is the constant stride of the DDIM paper. Raises ValueError where it
    cannot be done.

    >>> space_timesteps(1000, "5")
    (0, 250, 500, 749, 999)
    """
    if sections.startswith("ddim"):
        wanted = int(sections.removeprefix("ddim"))
        for stride in range(1, steps + 1):
            if len(range(0, steps, stride)) == wanted:
                return tuple(range(0, steps, stride))
        raise ValueError(f"No constant stride keeps exactly {wanted} of {steps} steps; write '{wanted}' instead.")
    counts = [int(part) for part in sections.split(",")]
    kept: list[int] = []
    start = 0
    for i, count in enumerate(counts):
        size = steps // len(counts) + (1 if i < steps % len(counts) else 0)
        if not 1 <= count <= size:
            raise ValueError(f"Cannot keep {count} steps of a section of {size} (of {steps} in all).")
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        place = 0.0  # summed, not multiplied: the reference's rounding of ties
        for _ in range(count):
            kept.append(start + round(place))
            place += stride
        start += size
    return tuple(sorted(set(kept)))
