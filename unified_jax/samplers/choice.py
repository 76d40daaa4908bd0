"""The samplers by name: frozen dataclasses of their options, each of which calls a function of this package.

`needs` says what a sampler steps over and which ends of a path it cannot reach; `Process.grid` answers it.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from unified_jax.config import check_finite
from unified_jax.processes.grids import Needs
from unified_jax.samplers.ddim import ddim
from unified_jax.samplers.ddpm import ddpm
from unified_jax.samplers.dopri5 import dopri5
from unified_jax.samplers.dpm_fast import dpm_fast
from unified_jax.samplers.dpm_solver import Kind, dpm_solver
from unified_jax.samplers.karras import Churn, karras
from unified_jax.samplers.loop import Denoiser
from unified_jax.samplers.ode import euler, heun
from unified_jax.samplers.pndm import pndm
from unified_jax.samplers.sde import Form, Last, sde
from unified_jax.samplers.unipc import B, unipc
from unified_jax.typing import Keys


@runtime_checkable
class Sampler(Protocol):
    """The sampler of a `SamplingPlan`."""

    @property
    def needs(self) -> Needs:
        """What it steps over, and the ends it cannot reach; a class variable where no option changes it."""
        ...

    def __call__(self, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
        """Integrates x from the grid's first time to a sample at its last."""
        ...


@dataclass(frozen=True)
class Euler:
    """Euler's method: first order, deterministic."""

    needs = Needs()

    def __call__(self, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
        """See `ode.euler`."""
        return euler(denoise, process, x, grid, keys)


@dataclass(frozen=True)
class Heun:
    """Heun's method: second order, deterministic, two evaluations per step."""

    needs = Needs()

    def __call__(self, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
        """See `ode.heun`."""
        return heun(denoise, process, x, grid, keys)


@dataclass(frozen=True)
class Dopri5:
    """Dormand-Prince 5(4): adaptive steps for each sample; ignores the plan's `steps`."""

    rtol: float = 1e-3
    """Relative tolerance."""
    atol: float = 1e-6
    """Absolute tolerance."""
    needs = Needs(adaptive=True)

    def __post_init__(self) -> None:
        check_finite(self)
        if self.rtol <= 0 or self.atol <= 0:
            raise ValueError(f"Dopri5 needs positive tolerances, found rtol = {self.rtol}, atol = {self.atol}.")

    def __call__(self, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
        """See `dopri5.dopri5`."""
        return dopri5(denoise, process, x, grid, keys, self.rtol, self.atol)


@dataclass(frozen=True)
class Ddim:
    """DDIM; eta 0 is deterministic, 1 ancestral."""

    eta: float = 0.0
    """Share of the ancestral noise."""
    needs = Needs(over="either")

    def __post_init__(self) -> None:
        check_finite(self)
        if self.eta < 0:
            raise ValueError(f"Ddim.eta must not be negative, found {self.eta}.")

    def __call__(self, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
        """See `ddim.ddim`."""
        return ddim(denoise, process, x, grid, keys, self.eta)


@dataclass(frozen=True)
class EulerAncestral:
    """Euler steps to a noise level below the target, then added noise up to the target (k-diffusion).

    With sigma_up^2 = s'^2 (s^2 - s'^2) / s^2 this is DDIM with eta = 1 over noise levels: the same numbers.
    """

    eta: float = 1.0
    """Factor on sigma_up."""
    needs = Needs()

    def __post_init__(self) -> None:
        check_finite(self)
        if not 0 <= self.eta <= 1:
            raise ValueError(f"EulerAncestral.eta must lie in [0, 1], found {self.eta}.")

    def __call__(self, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
        """See `ddim.ddim`."""
        return ddim(denoise, process, x, grid, keys, self.eta)


@dataclass(frozen=True)
class Ddpm:
    """Ancestral sampling of a discrete process, with its own variances."""

    needs = Needs(over="chain")

    def __call__(self, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
        """See `ddpm.ddpm`."""
        return ddpm(denoise, process, x, grid, keys)


@dataclass(frozen=True)
class DpmSolver:
    """DPM-Solver++ (of x0) or DPM-Solver (`of_eps`), multistep, ODE or SDE."""

    order: int = 2
    """1, 2 or 3."""
    form: Kind = "midpoint"
    """Variant of the second order."""
    sde: bool = False
    """Add noise: solve the SDE."""
    of_eps: bool = False
    """Fit eps instead of x0 (order 3 only without noise); ends above sigma = 0."""
    as_published: bool = False
    """Order 3 as its authors' code and diffusers have it, with half of D2, which makes it one of second order."""

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3) or (self.sde and self.of_eps and self.order == 3):
            raise ValueError(f"DpmSolver.order is 1, 2 or 3 (1 or 2 with sde and of_eps), found {self.order}.")

    @property
    def needs(self) -> Needs:
        """With `of_eps` both ends need a finite log-SNR."""
        return Needs(above_data=self.of_eps, below_noise=self.of_eps)

    def __call__(self, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
        """See `dpm_solver.dpm_solver`."""
        return dpm_solver(
            denoise, process, x, grid, keys, self.order, self.form, self.sde, self.of_eps,
            as_published=self.as_published,
        )  # fmt: skip


@dataclass(frozen=True)
class DpmFast:
    """DPM-Solver-fast, singlestep; `steps` are evaluations."""

    of_eps: bool = True
    """Fit eps (DPM-Solver) or x0 (DPM-Solver++)."""
    needs = Needs(above_data=True, below_noise=True, even_log_levels=True)

    def __call__(self, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
        """See `dpm_fast.dpm_fast`."""
        return dpm_fast(denoise, process, x, grid, keys, self.of_eps)


@dataclass(frozen=True)
class UniPc:
    """UniPC: predictor and corrector, one evaluation per step."""

    order: int = 2
    """1, 2 or 3."""
    form: B = "bh2"
    """Function B(h)."""
    needs = Needs()

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"UniPc.order is 1, 2 or 3, found {self.order}.")

    def __call__(self, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
        """See `unipc.unipc`."""
        return unipc(denoise, process, x, grid, keys, self.order, self.form)


@dataclass(frozen=True)
class Sde:
    """The reverse-time SDE with a diffusion coefficient of choice (SiT)."""

    method: Literal["euler", "heun"] = "euler"
    """Euler-Maruyama or Heun."""
    form: Form = "sigma"
    """Variant of w(t)."""
    norm: float = 1.0
    """Magnitude of w(t)."""
    last: Last = "mean"
    """Treatment of the last step."""
    last_size: float = 0.04
    """Length of the last step."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.norm < 0 or not 0 < self.last_size < 1:
            raise ValueError(f"Sde needs norm >= 0 and last_size in (0, 1), found {self.norm} and {self.last_size}.")

    @property
    def needs(self) -> Needs:
        """A path with a special last step; the form sbdm diverges where alpha = 0."""
        return Needs(over="path", below_noise=self.form == "sbdm", last_size=self.last_size)

    def __call__(self, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
        """See `sde.sde`."""
        return sde(denoise, process, x, grid, keys, self.method, self.form, self.norm, self.last)


@dataclass(frozen=True)
class Karras:
    """EDM's stochastic Heun sampler, over noise levels."""

    churn: Churn = Churn()
    """Noise added before each step."""
    order: Literal[1, 2] = 2
    """2: Heun; 1: Euler, without the correction."""
    needs = Needs(over="levels")

    def __call__(self, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
        """See `karras.karras`."""
        return karras(denoise, process, x, grid, keys, self.churn, self.order)


@dataclass(frozen=True)
class Pndm:
    """PNDM's linear multistep method (PLMS): fourth order, deterministic; the first step takes two evaluations."""

    needs = Needs(over="either")

    def __call__(self, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
        """See `pndm.pndm`."""
        return pndm(denoise, process, x, grid, keys)


AnySampler = Euler | Heun | Dopri5 | Ddim | EulerAncestral | Ddpm | DpmSolver | DpmFast | UniPc | Sde | Karras | Pndm
"""All samplers."""
