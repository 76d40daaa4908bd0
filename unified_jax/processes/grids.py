r"""Grids of times: decreasing arrays `[k + 1]` from noise to data, the argument of every sampler.

A sampler says in `Needs` what it steps over and which ends it cannot reach; a plan adds the number of steps, spacing
and shift (`GridRequest`); `Process.grid` answers with the process to sample with and its grid.

Continuous time: uniform from 1 to 0, with the resolution shift t' = s t / (1 + (s - 1) t) (Esser et al. 2024, section
5.3.2; s > 1 spends more steps near noise). The shift keeps both ends. With `lowest`, k times from 1 down to it, then
shifted, and then the data, as in Stable Diffusion 3. Noise levels s = sigma / alpha, k from `high` to `low`, then 0:

    Karras          (high^(1/rho) + i / (k - 1) (low^(1/rho) - high^(1/rho)))^rho, rho = 7 (Karras et al. 2022, eq. 5)
    exponential     uniform in log s
    beta            uniform in the quantiles of Beta(0.6, 0.6) (Lee et al. 2024, "Beta Sampling is All You Need")

Discrete time: step indices, then -1, the data. Of T steps a sampler visits k, in decreasing order
(Lin et al. 2023, table 2): "linspace" 0 ... T - 1 uniform, both ends; "leading" multiples of T // k, which omit
the last steps; "trailing" T - 1 and down by T / k, which suits processes of zero terminal SNR.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from unified_jax.errors import UserError
from unified_jax.processes.times import shift_times, unshifted

Spacing = Literal["default", "leading", "trailing", "karras", "exponential", "beta"]
LevelSpacing = Literal["karras", "exponential", "beta"]
StepSpacing = Literal["linspace", "leading", "trailing"]

Last = Literal["data", "first", "instead"]
"""The end of a discrete process's k steps: the data after them; the level of its first step after them; or the data in
the place of the last of k + 1 whole steps (the grid of diffusers' DPM-Solver and UniPC)."""

Begin = Literal["noise", "level"]
"""What a discrete process's noise levels begin with: its pure noise, or s eps at the first level s."""

SHORT = 1e-3
"""Distance from t = 0 (or 1) of a grid that must not reach the data (or the noise)."""


@dataclass(frozen=True)
class Needs:
    """What a sampler asks of a process and its grid."""

    over: Literal["chain", "either", "continuous", "levels", "path"] = "continuous"
    """What it steps over: a discrete process's indices; these or continuous time; any continuous time; noise levels
    (alpha = 1); a path between data and noise."""
    above_data: bool = False
    """The grid must end above sigma = 0."""
    below_noise: bool = False
    """The grid must start where alpha > 0."""
    adaptive: bool = False
    """It chooses its own steps between the ends."""
    last_size: float = 0.0
    """Length of a special last step; 0 where all steps are alike."""
    even_log_levels: bool = False
    """Over a discrete process's noise levels, its default spacing is even in log s."""


@dataclass(frozen=True)
class GridRequest:
    """What a plan asks of a process."""

    steps: int = 50
    """Steps of the sampler."""
    spacing: Spacing = "default"
    """The process's own spacing, or one by name."""
    shift: float = 1.0
    """Resolution shift of an even grid in continuous time."""
    needs: Needs = Needs()
    """The sampler's needs."""
    sampler: str = "of this plan"
    """The sampler's name in error messages."""
    offset: int = 0
    """Added to the steps of the spacing "leading"."""
    last: Last = "data"
    """Where the last step of a discrete process ends."""
    lowest: float = 0.0
    """Last time before the data in continuous time, before the shift; 0: times are even to the data."""
    whole: bool = False
    """Whether the network is told whole steps at the noise levels of a discrete process."""
    begin: Begin = "noise"
    """What is at the first noise level of a discrete process."""

    @property
    def by_level(self) -> bool:
        """Whether the spacing is in noise levels."""
        return self.spacing in get_args(LevelSpacing)

    def refuse(self, **reasons: str) -> None:
        """Raises UserError for the first of these options that is not at its default: field=reason."""
        for option, reason in reasons.items():
            found, default = getattr(self, option), getattr(GridRequest, option)
            if found != default:
                raise UserError(f"{option} {found!r} has no effect here: {reason}. Leave it at {default!r}.")

    def levels(self, low: float, high: float, count: int, default: str = "") -> Float[np.ndarray, "k"]:
        """`count` levels from high to low. Raises UserError for a spacing of discrete steps."""
        match default if self.spacing == "default" else self.spacing:
            case "karras":
                return karras_levels(low, high, count)
            case "exponential":
                return exponential_levels(low, high, count)
            case "beta":
                return beta_levels(low, high, count)
            case other:
                raise UserError(f"spacing {other!r} is for discrete processes; choose karras, exponential or beta.")


def level_grid(request: GridRequest, low: float, high: float, default: LevelSpacing) -> Float[np.ndarray, "k"]:
    """Noise levels from high to low, then 0; a sampler that must not reach 0 ends at low / 2 instead."""
    request.refuse(last="it says where the steps of a discrete process end, and these are noise levels")
    if request.needs.adaptive:
        return adaptive_grid(request, high, low, 0.0)
    why = "it applies to uniform grids in continuous time, and these are noise levels"
    request.refuse(shift=why, lowest=why)
    levels = request.levels(low, high, request.steps, default)
    return np.append(levels, 0.5 * low if request.needs.above_data else 0.0)


def adaptive_grid(request: GridRequest, start: float, near: float, end: float) -> Float[np.ndarray, "k"]:
    """End points for an adaptive solver: from start to `near` the data, then one last step."""
    why = f"the sampler {request.sampler} chooses its own times"
    request.refuse(spacing=why, shift=why, lowest=why)
    return np.asarray([start, near, end] if end < near else [start, end])


def time_grid(process: Any, request: GridRequest, start: float = 1.0, end: float = 0.0) -> Float[np.ndarray, "k"]:
    """Times from start to end, 1 >= start > end >= 0, of a process with `alpha_sigma` (and, for spacings by level,
    `time_of_level`). Raises UserError for options that do not suit continuous time."""
    needs, middle = request.needs, 0.5 * (start + end)
    request.refuse(last="it says where a discrete process ends, and this one has continuous time")
    why = "it is of the noise levels of discrete steps, and this process has continuous time"
    request.refuse(whole=why, begin=why)
    if needs.over == "chain":
        raise UserError(f"The sampler {request.sampler} needs a discrete process; choose another for this model.")
    if needs.over == "levels":
        raise UserError(f"The sampler {request.sampler} steps in noise levels: it needs Edm or a discrete process.")
    near_data, near_noise = max(end, min(SHORT, middle)), min(start, max(1.0 - SHORT, middle))
    if needs.adaptive:
        return adaptive_grid(request, start, near_data, end)
    if needs.below_noise or needs.above_data:  # only then: several processes join before JAX opens its devices
        with jax.ensure_compile_time_eval():
            alpha, sigma = (np.asarray(v) for v in process.alpha_sigma(jnp.asarray([start, end])))
        start = near_noise if needs.below_noise and alpha[0] == 0 else start
        end = near_data if needs.above_data and sigma[1] == 0 else end
    if needs.last_size:
        return _grid_with_last(request, start, end)
    if not request.by_level:
        if request.spacing != "default":
            request.levels(1.0, 1.0, 1)  # refuses a spacing of discrete steps
        if request.lowest:
            return _grid_above(request, start, end)
        return uniform_grid(request.steps, request.shift, start, end)
    why = f"spacing {request.spacing!r} places the times itself"
    request.refuse(shift=why, lowest=why)
    with jax.ensure_compile_time_eval():
        alpha, sigma = process.alpha_sigma(jnp.asarray([near_noise, max(near_data, end)]))
        high, low = (float(v) for v in sigma / alpha)
        levels = request.levels(low, high, request.steps + (end >= near_data))
        times = np.asarray(process.time_of_level(jnp.asarray(levels)), np.float64)
    times[0] = start
    if end < near_data:
        return np.append(times, end)
    times[-1] = end
    return times


def _grid_with_last(request: GridRequest, start: float, end: float) -> Float[np.ndarray, "k"]:
    """A uniform grid, then one last step of the length that the sampler asks for."""
    size, name = request.needs.last_size, request.sampler
    why = f"the sampler {name} has uniform steps and a special last one"
    request.refuse(spacing=why, lowest=why)
    if request.steps < 2:
        raise UserError(f"The sampler {name} needs at least two steps, of which the last is special.")
    if end + size >= start:
        raise UserError(
            f"The sampler {name} has a last step of length {size:g}, which leaves nothing of the times {end:g} to "
            f"{start:g}; choose a shorter one."
        )
    return np.append(uniform_grid(request.steps - 1, request.shift, start, end + size), end)


def _grid_above(request: GridRequest, start: float, end: float) -> Float[np.ndarray, "k"]:
    """Times from start down to `lowest`, shifted, and then the end."""
    times = shift_times(np.linspace(unshifted(start, request.shift), request.lowest, request.steps), request.shift)
    if times[-1] <= end:
        raise UserError(f"lowest is above the last time {end:g} of the process, found {request.lowest:g}.")
    return np.append(times, end)


def uniform_grid(steps: int, shift: float = 1.0, start: float = 1.0, end: float = 0.0) -> Float[np.ndarray, "k"]:
    """`steps` + 1 times from start to end, shifted in between.

    Raises ValueError unless steps >= 1 and 1 >= start > end >= 0.

    >>> [round(float(t), 4) for t in uniform_grid(4, shift=3.0)]
    [1.0, 0.9, 0.75, 0.5, 0.0]
    """
    if steps < 1:
        raise ValueError(f"A grid needs at least one step, found {steps}.")
    if not 1.0 >= start > end >= 0.0:
        raise ValueError(f"A grid must decrease within [0, 1], found start {start}, end {end}.")
    if not 0 < shift < float("inf"):
        raise ValueError(f"The shift of a grid must be positive, found {shift}.")
    if shift == 1:
        return np.linspace(start, end, steps + 1)
    times = shift_times(np.linspace(unshifted(start, shift), unshifted(end, shift), steps + 1), shift)
    times[0], times[-1] = start, end
    return times


def check_falls(grid: np.ndarray, request: GridRequest) -> None:
    """Raises UserError where two times of a grid are one number in float32, or not finite; and for a grid of one."""
    times = np.asarray(grid, np.float32)
    if len(times) < 2:  # one step, visited last and first
        raise UserError(f"{request.steps} step with spacing {request.spacing!r} begins where it ends; use more.")
    if not np.isfinite(times).all() or not (np.diff(times) < 0).all():
        raise UserError(
            f"{request.steps} steps with spacing {request.spacing!r} and shift {request.shift:g} give times that "
            "float32 cannot tell apart; use fewer steps, or another spacing."
        )


def discrete_grid(length: int) -> Int[np.ndarray, "k"]:
    """length - 1, ..., 0, -1: every step once.

    >>> discrete_grid(4).tolist()
    [3, 2, 1, 0, -1]
    """
    return np.arange(length - 1, -2, -1, dtype=np.int32)


def spaced_steps(total: int, steps: int, spacing: StepSpacing, offset: int = 0) -> Float[np.ndarray, "k"]:
    """`steps` of `total` discrete steps, decreasing; "linspace" gives fractions.

    `offset` is added to "leading" (Stable Diffusion was sampled with 1). A single step of "linspace" is the last one,
    where sampling begins. Raises ValueError for steps outside 1 .. total.
    """
    if not 1 <= steps <= total:
        raise ValueError(f"The process has {total} steps: choose 1 to {total} sampling steps, found {steps}.")
    match spacing:
        case "linspace":
            return np.linspace(0, total - 1, steps)[::-1] if steps > 1 else np.asarray([total - 1.0])
        case "leading":
            return np.arange(steps)[::-1] * float(total // steps) + offset
        case "trailing":
            return np.round(total - np.arange(steps) * (total / steps)) - 1.0


def karras_levels(low: float, high: float, steps: int, rho: float = 7.0) -> Float[np.ndarray, "k"]:
    """`steps` noise levels from high to low, without the 0 at the end."""
    ramp = np.linspace(0.0, 1.0, steps)
    return (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def exponential_levels(low: float, high: float, steps: int) -> Float[np.ndarray, "k"]:
    """`steps` noise levels from high to low, uniform in their logarithm."""
    return np.exp(np.linspace(np.log(high), np.log(low), steps))


def beta_levels(low: float, high: float, steps: int, a: float = 0.6, b: float = 0.6) -> Float[np.ndarray, "k"]:
    """`steps` noise levels from high to low, at uniform quantiles of a beta distribution."""
    from scipy.stats import beta  # slow to import, and only needed here

    return low + beta.ppf(1.0 - np.linspace(0.0, 1.0, steps), a, b) * (high - low)
