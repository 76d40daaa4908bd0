"""What trainer, sampler and evaluator know of a model, and the plan of a sampling run."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array

from unified_jax.errors import UserError
from unified_jax.modalities.base import Modality
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.schedules import space_timesteps
from unified_jax.processes.targets import Process
from unified_jax.samplers.ddim import ddim
from unified_jax.samplers.ddpm import ddpm
from unified_jax.samplers.grids import discrete_grid, uniform_grid
from unified_jax.samplers.loop import Denoiser
from unified_jax.samplers.ode import euler, heun
from unified_jax.typing import Batch, Keys, Params

Terms = dict[str, tuple[Array, Array]]
"""Named (sum, weight) pairs; what is reported is sum / weight, divided once after everything was added up."""


@dataclass(frozen=True)
class Plan:
    """How samples are drawn."""

    sampler: Literal["euler", "heun", "ddim", "ddpm"] = "euler"
    """euler, heun: continuous processes; ddpm: discrete ones; ddim: both."""
    steps: int = 50
    """Steps of the sampler."""
    guidance: float = 1.0
    """Classifier-free guidance scale s = 1 + w; 1 is none."""
    eta: float = 0.0
    """Noise of ddim: 0 deterministic, 1 ancestral."""
    shift: float = 1.0
    """Resolution shift of the time grid (continuous processes)."""
    clip: bool = False
    """Clip the predicted x0 to [-1, 1] at every step."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"The sampler needs at least one step, found steps = {self.steps}.")
        if self.guidance < 0 or self.eta < 0 or self.shift <= 0:
            raise UserError(
                f"guidance and eta must not be negative and shift must be positive; found guidance = "
                f"{self.guidance}, eta = {self.eta}, shift = {self.shift}."
            )

    def prepare(self, process: Process) -> tuple[Process, np.ndarray]:
        """The process to sample with (a discrete one is respaced to `steps`) and its grid."""
        if not isinstance(process, DiscreteGaussian):
            if self.sampler == "ddpm":
                raise UserError("sampler ddpm needs a discrete process; use euler, heun or ddim with this model.")
            return process, uniform_grid(self.steps, self.shift)
        if self.sampler in ("euler", "heun"):
            raise UserError(f"sampler {self.sampler} needs continuous time; use ddim or ddpm with this model.")
        if self.steps > len(process):
            raise UserError(f"The process has {len(process)} steps; found steps = {self.steps}.")
        return process.respaced(space_timesteps(process.steps, str(self.steps))), discrete_grid(self.steps)

    def run(self, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
        """x at the grid's first time to a sample."""
        match self.sampler:
            case "euler":
                return euler(denoise, process, x, grid, keys)
            case "heun":
                return heun(denoise, process, x, grid, keys)
            case "ddim":
                return ddim(denoise, process, x, grid, keys, self.eta)
            case "ddpm":
                return ddpm(denoise, process, x, grid, keys)


@runtime_checkable
class Model(Protocol):
    """A generative model: frozen, hashable, pure."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Everything a batch must hold for it."""
        ...

    @property
    def conditions(self) -> tuple[Any, ...]:
        """The modalities that may be given when sampling."""
        ...

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters, a plain nested dict."""
        ...

    def axes(self) -> Any:
        """The same tree with a tuple of logical axis names a parameter."""
        ...

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """({name: (sum [b], weight [b])}, aux, metrics {name: (sums, weights)}); key is that of the step."""
        ...

    def generate(
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: Plan
    ) -> dict[str, Array]:
        """The wanted modalities in model space, one sample a key. What is not given is unconditional."""
        ...
