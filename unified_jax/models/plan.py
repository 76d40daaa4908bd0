"""The plan of a sampling run: sampler, number and spacing of steps, guidance; and the grid that follows from it."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.errors import UserError
from unified_jax.processes.edm import Edm
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import Interpolant
from unified_jax.processes.levels import NoiseLevels
from unified_jax.processes.schedules import space_timesteps
from unified_jax.processes.targets import Process
from unified_jax.samplers import grids
from unified_jax.samplers.choice import AnySampler, Dopri5, DpmFast, Euler, Karras, Sde
from unified_jax.samplers.guidance import Guidance

Spacing = Literal["default", "leading", "trailing", "karras", "exponential", "beta"]

SHORT = 1e-3
"""Where a grid stops that must not reach the data (or, for the singular SDE, must not start at alpha = 0)."""


@dataclass(frozen=True)
class Plan:
    """How samples are drawn."""

    sampler: AnySampler = Euler()
    """The solver, with its own options."""
    steps: int = 50
    """Steps of the sampler."""
    guidance: Guidance = Guidance()
    """Classifier-free guidance."""
    spacing: Spacing = "default"
    """Default: even in time (chains: even steps, both ends); Karras' levels for EDM, even log-levels for DpmFast."""
    shift: float = 1.0
    """Resolution shift of an even grid in continuous time."""
    clip: bool = False
    """Clip the predicted x0 to [-1, 1] at every step."""
    temperature: float = 0.0
    """Of text: 0 takes the likeliest token."""
    top_p: float = 1.0
    """Text is drawn among the fewest tokens that hold this share of the probability."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"The sampler needs at least one step, found steps = {self.steps}.")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UserError(
                f"Text needs temperature >= 0 and top_p in (0, 1], found {self.temperature} and {self.top_p}."
            )
        if self.shift <= 0:
            raise UserError(f"shift must be positive, found {self.shift}.")

    @property
    def sampler_name(self) -> str:
        """The sampler as messages name it."""
        return type(self.sampler).__name__

    def prepare(self, process: Process) -> tuple[Process, np.ndarray]:
        """The process to sample with and its falling grid.

        A chain is respaced for samplers of chains and seen through its noise levels (`NoiseLevels`) by the others.
        Raises UserError for a sampler, spacing or number of steps that does not fit the process.
        """
        if isinstance(process, DiscreteGaussian):
            return self._of_chain(process)
        if self.sampler.kind == "chain":
            raise UserError(f"The sampler {self.sampler_name} needs a discrete process; choose another for this model.")
        if isinstance(self.sampler, Karras) and not isinstance(process, Edm):
            raise UserError("The sampler Karras steps in noise levels: it needs Edm or a discrete process.")
        if isinstance(process, Edm):
            if isinstance(self.sampler, Sde):
                raise UserError("The sampler Sde needs a path between data and noise; use Karras with churn for Edm.")
            return process, self._level_grid(process.sigma_min, process.sigma_max, "karras")
        if isinstance(process, Interpolant):
            return process, self._time_grid(process)
        raise UserError(f"No grid is known for the process {type(process).__name__}.")

    def _of_chain(self, process: DiscreteGaussian) -> tuple[Process, np.ndarray]:
        chain = process.respaced(())
        if self.steps > chain.steps:
            raise UserError(f"The process has {chain.steps} steps; found steps = {self.steps}.")
        if isinstance(self.sampler, Sde):
            raise UserError("The sampler Sde needs continuous time; use Karras with churn, or Ddpm, with this model.")
        by_level = self.spacing in ("karras", "exponential", "beta")
        if self.sampler.kind == "chain" and by_level:
            raise UserError(f"The sampler {self.sampler_name} visits whole steps; spacing {self.spacing!r} has none.")
        if self.sampler.kind != "continuous" and not by_level:
            kept = space_timesteps(chain.steps, str(self.steps))
            if self.spacing != "default":
                kept = tuple(int(t) for t in grids.spaced_steps(chain.steps, self.steps, self.spacing)[::-1])  # type: ignore[arg-type]
            return chain.respaced(kept), grids.discrete_grid(self.steps)
        levels = NoiseLevels(chain)
        if isinstance(self.sampler, DpmFast) and self.spacing == "default":
            return levels, self._level_grid(levels.sigma_min, levels.sigma_max, "exponential")
        if by_level:
            return levels, self._level_grid(levels.sigma_min, levels.sigma_max, "")
        spacing = "linspace" if self.spacing == "default" else self.spacing
        table = levels.at_steps(grids.spaced_steps(chain.steps, self.steps, spacing))  # type: ignore[arg-type]
        return levels, self._ended(table, levels.sigma_min)

    def _level_grid(self, low: float, high: float, default: str) -> np.ndarray:
        match default if self.spacing == "default" else self.spacing:
            case "karras":
                table = grids.karras_levels(low, high, self.steps)
            case "exponential":
                table = grids.exponential_levels(low, high, self.steps)
            case "beta":
                table = grids.beta_levels(low, high, self.steps)
            case other:
                raise UserError(f"spacing {other!r} is for discrete processes; choose karras, exponential or beta.")
        return self._ended(table, low)

    def _ended(self, table: np.ndarray, low: float) -> np.ndarray:
        """Levels and then 0; a solver that must not reach 0 spends its last step on the way to just above."""
        if isinstance(self.sampler, Dopri5):
            return np.asarray([table[0], low, 0.0])
        return np.append(table, 0.5 * low if self.sampler.needs_noise else 0.0)

    def _time_grid(self, process: Interpolant) -> np.ndarray:
        start, end = process.noise_end, process.data_end
        if isinstance(self.sampler, Dopri5):
            return np.asarray([start, max(end, SHORT), end] if end < SHORT else [start, end])
        if self.sampler.needs_noise:
            start, end = min(start, 1.0 - SHORT) if process.path.reaches_noise else start, max(end, SHORT)
        if isinstance(self.sampler, Sde):
            if self.sampler.form == "sbdm":
                start = min(start, 1.0 - SHORT)
            if self.steps < 2:
                raise UserError("The sampler Sde needs at least two steps: its last one is of its own kind.")
            inner = grids.uniform_grid(self.steps - 1, self.shift, start, max(end, self.sampler.last_size))
            return np.append(inner, end)
        if self.spacing == "default":
            return grids.shift_times(np.linspace(start, end, self.steps + 1), self.shift)
        with jax.ensure_compile_time_eval():
            alpha, sigma = process.alpha_sigma(jnp.asarray([min(start, 1.0 - SHORT), max(end, SHORT)]))
            high, low = (float(v) for v in sigma / alpha)
            levels = self._level_grid(low, high, "")[:-1]
            times = np.asarray(process.time_of_level(jnp.asarray(levels)), np.float64)
        return np.append(np.concatenate([[start], times[1:]]), end)

    def with_steps(self, steps: int | None, guidance: float | None) -> "Plan":
        """The plan with what is not None replaced."""
        plan = self if steps is None else replace(self, steps=steps)
        return plan if guidance is None else replace(plan, guidance=replace(plan.guidance, scale=guidance))

    def run(self, denoise: Any, process: Any, x: Any, grid: Any, keys: Any) -> Any:
        """x at the grid's first time to a sample."""
        return self.sampler(denoise, process, x, grid, keys)
