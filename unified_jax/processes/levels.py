r"""A discrete process in continuous time, by its noise level s = sqrt((1 - abar) / abar).

Solvers that choose their own times (Euler, Heun, DPM-Solver++, UniPC, Karras' grid) run a network trained on T steps as
in Karras et al. 2022 (table 1, "VP"), in the variables

    x / sqrt(abar) = x0 + s eps,        alpha = 1, sigma = s,

the time being s itself. The network's input is x / sqrt(1 + s^2), the process's own x_t, and the step whose noise level
is s, interpolated linearly in log s. A process with zero terminal SNR has no largest level; its last abar is
set to 2^-24 (as in diffusers), which is s = 4096.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.errors import UserError
from unified_jax.processes.chain import Chain
from unified_jax.processes.grids import Begin, GridRequest, adaptive_grid, discrete_grid, level_grid, spaced_steps
from unified_jax.processes.schedules import space_timesteps
from unified_jax.processes.targets import Prediction, Process, coefficients, expand, solve_pair
from unified_jax.typing import Keys

LEAST_ABAR = 2.0**-24


@dataclass(frozen=True)
class NoiseLevels:
    """The process `chain` over its noise levels; for sampling."""

    chain: Chain
    """The discrete process that the network was trained on: a `DiscreteGaussian`."""
    whole: bool = False
    """Whether the network is told the nearest whole step."""
    begin: Begin = "noise"
    """What sampling begins with at a level s: sqrt(1 + s^2) eps, or s eps."""

    @functools.cached_property
    def table(self) -> Float[np.ndarray, "t"]:
        """Noise level of every step, increasing, float64."""
        abar = self.chain.respaced(()).alphas_cumprod
        if self.chain.zero_snr or abar[-1] == 0:
            abar = np.maximum(abar, LEAST_ABAR)
        return np.sqrt((1.0 - abar) / abar)

    def at_steps(self, steps: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
        """Noise levels at (fractional) steps, linear between steps."""
        return np.interp(steps, np.arange(len(self.table)), self.table)

    @property
    def sigma_min(self) -> float:
        """Noise level of the first step."""
        return float(self.table[0])

    @property
    def sigma_max(self) -> float:
        """Noise level of the last step."""
        return float(self.table[-1])

    @property
    def channels_per_output(self) -> int:
        """See `DiscreteGaussian`."""
        return self.chain.channels_per_output

    def alpha_sigma(self, t: Array) -> tuple[Array, Array]:
        """(1, t)."""
        return jnp.ones_like(t), t

    def time_of_level(self, level: Array) -> Array:
        """The noise level itself."""
        return level

    def target_coefficients(self, t: Array) -> tuple[Array, Array]:
        """(p, q) of the target."""
        scale = self._scale(t)
        return coefficients(self.chain.target, scale, t * scale, scale, t * scale)

    def draw_times(self, keys: Keys) -> Float[Array, "b"]:
        """Noise levels of uniform steps."""
        return jnp.asarray(self.table, jnp.result_type(float))[self.chain.respaced(()).draw_times(keys)]

    def network_input(self, x_t: Array, t: Array) -> Array:
        """The discrete process's own x_t, x / sqrt(1 + s^2)."""
        return expand(self._scale(t), x_t) * x_t

    def network_time(self, t: Array) -> Array:
        """The (fractional) step whose noise level is t; with `whole` the nearest."""
        logs = jnp.asarray(np.log(self.table), jnp.result_type(float))
        step = jnp.interp(jnp.log(jnp.maximum(t, 1e-10)), logs, jnp.arange(len(self.table), dtype=logs.dtype))
        return jnp.round(step) if self.whole else step

    def unit_time(self, t: Array) -> Array:
        """(step + 1) / T."""
        return (self.network_time(t) + 1.0) / len(self.table)

    def start(self, eps: Array, t: Array) -> Array:
        """The discrete process starts at x_T = eps, which is sqrt(1 + s^2) eps here; or s eps."""
        return eps * expand(t, eps) if self.begin == "level" else eps / expand(self._scale(t), eps)

    def predict(self, output: Array, x_t: Array, t: Array) -> Prediction:
        """The solve in the discrete process's variables; x0 and eps are the same in both. Drops a learned variance."""
        if self.channels_per_output == 2:
            output = jnp.split(output, 2, axis=-1)[0]
        scale = self._scale(t)
        return solve_pair((scale, t * scale), self.target_coefficients(t), output, self.network_input(x_t, t))

    def losses(self, output: Array, x0: Array, eps: Array, x_t: Array, t: Array) -> dict[str, Float[Array, "b"]]:
        """Not for training: raises TypeError."""
        raise TypeError("NoiseLevels is for sampling; train on its DiscreteGaussian.")

    def grid(self, request: GridRequest) -> tuple[Process, np.ndarray]:
        """See `DiscreteGaussian`."""
        return chain_grid(self.chain, request)

    def _scale(self, t: Array) -> Array:
        return 1.0 / jnp.sqrt(1.0 + t**2)


def chain_grid(chain: Chain, request: GridRequest) -> tuple[Any, np.ndarray]:
    """The respaced process for discrete samplers, its noise levels (`NoiseLevels`) for all others."""
    chain, needs, name = chain.respaced(()), request.needs, request.sampler
    if needs.over == "path":
        raise UserError(f"The sampler {name} needs continuous time; use Karras with churn, or Ddpm, with this model.")
    levels = NoiseLevels(chain, request.whole, request.begin)
    if needs.adaptive:
        request.refuse(last=f"the sampler {name} chooses its own times")
        return levels, adaptive_grid(request, levels.sigma_max, levels.sigma_min, 0.0)
    if request.steps > chain.steps:
        raise UserError(
            f"The process has {chain.steps} steps: choose 1 to {chain.steps} sampling steps, found {request.steps}."
        )
    if needs.over == "chain" and request.by_level:
        raise UserError(
            f"The sampler {name} needs whole steps; spacing {request.spacing!r} has none. Leave it at 'default'."
        )
    why = "it applies to uniform grids in continuous time, and this process has discrete steps"
    request.refuse(shift=why, lowest=why)
    if needs.over in ("chain", "either") and not request.by_level:
        steps = _visited(chain, request)
        if request.last != "first":
            return chain.respaced(steps), discrete_grid(request.steps)
        steps = steps if steps[0] == 0 else (0, *steps)
        return chain.respaced(steps), discrete_grid(len(steps))[:-1]
    if request.by_level or (needs.even_log_levels and request.spacing == "default"):
        return levels, level_grid(request, levels.sigma_min, levels.sigma_max, "exponential")
    table = levels.at_steps(_within(chain, _steps_between(chain, request)))
    if request.last == "first":
        return levels, np.append(table, levels.sigma_min)
    return levels, np.append(table, 0.5 * levels.sigma_min if needs.above_data else 0.0)


def _steps_between(chain: Chain, request: GridRequest) -> np.ndarray:
    """Decreasing (fractional) steps; of "instead" all but the last of one more, rounded."""
    spacing: Any = "linspace" if request.spacing == "default" else request.spacing
    if request.last != "instead":
        return spaced_steps(chain.steps, request.steps, spacing, request.offset)
    if request.steps == chain.steps:
        raise UserError(
            f"last 'instead' places one step more than the {request.steps} that the process has; use fewer."
        )
    return spaced_steps(chain.steps, request.steps + 1, spacing, request.offset).round()[:-1]


def _visited(chain: Chain, request: GridRequest) -> tuple[int, ...]:
    """Increasing indices of the full process; default: uniform, rounded as in improved DDPM; one step is the last."""
    if request.last == "instead":
        return tuple(int(t) for t in _within(chain, _steps_between(chain, request))[::-1])
    if request.spacing == "default" and request.steps > 1:
        return space_timesteps(chain.steps, str(request.steps))
    spacing = "linspace" if request.spacing == "default" else request.spacing
    steps = _within(chain, spaced_steps(chain.steps, request.steps, spacing, request.offset))  # type: ignore[arg-type]
    return tuple(int(t) for t in steps[::-1])


def _within(chain: Chain, steps: np.ndarray) -> np.ndarray:
    """The steps. Raises UserError for one that the process does not have."""
    if steps[0] >= chain.steps:
        raise UserError(f"The process has {chain.steps} steps, and an offset leads beyond its last; leave it at 0.")
    return steps
