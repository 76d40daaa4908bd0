"""The plan of a sampling run: sampler, number and spacing of steps, guidance, and the resulting grid."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from unified_jax.config import Open, check_finite, check_open
from unified_jax.errors import UserError
from unified_jax.moved import present_name
from unified_jax.processes.grids import Begin, GridRequest, Last, Spacing, check_falls
from unified_jax.processes.targets import Process
from unified_jax.samplers.choice import Euler, Sampler
from unified_jax.samplers.guidance import Guidance


@dataclass(frozen=True)
class SamplingPlan:
    """Sampler settings: solver, steps, guidance."""

    sampler: Open[Sampler] = Euler()
    """The solver, with its own options."""
    steps: int = 50
    """Sampling steps."""
    guidance: Guidance = Guidance()
    """Classifier-free guidance."""
    spacing: Spacing = "default"
    """Step spacing. Default: uniform in time or step index; Karras' noise levels for EDM, log-uniform for DpmFast."""
    shift: float = 1.0
    """Resolution shift of a uniform grid in continuous time."""
    offset: int = 0
    """Added to the steps of the spacing "leading" (Stable Diffusion was sampled with 1)."""
    last: Last = "data"
    """Where the last step of a discrete process ends: at the data, at its first step, as Stable Diffusion's do, or at
    the data "instead" of the last of one step more, as diffusers' DPM-Solver and UniPC do."""
    clip: bool = False
    """Clip the predicted x0 to [-1, 1] at every step."""
    complete: bool = False
    """Draw labels that a request leaves out uniformly from their classes, instead of asking without them; of a text
    what it leaves out, where its encoder can (`TextClassifier.objects`)."""
    temperature: float = 0.0
    """Temperature of text sampling; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling of text: the smallest set of tokens with this total probability."""
    lowest: float = 0.0
    """Last time before the data in continuous time, before the shift (Stable Diffusion 3); 0: even to the data."""
    whole: bool = False
    """Of a discrete process over its noise levels: tell the network the nearest whole step, not a fraction, as
    diffusers' DPM-Solver and UniPC do with Karras' levels."""
    begin: Begin = "noise"
    """Where a discrete process over its noise levels begins: at its own pure noise, or at the noise of the first
    "level" s alone, s eps instead of sqrt(1 + s^2) eps, as diffusers' Euler does."""
    through: tuple[str, ...] = ()
    """Modalities that Transfusion makes first where a request neither gives nor wants them, and then reads: with
    ("caption",) an image becomes a video by way of a caption."""

    def __post_init__(self) -> None:
        check_finite(self)
        check_open(self)
        if self.steps < 1:
            raise UserError(f"The sampler needs at least one step, found steps = {self.steps}.")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UserError(
                f"Text needs temperature >= 0 and top_p in (0, 1], found {self.temperature} and {self.top_p}."
            )
        if self.offset < 0 or (self.offset and self.spacing != "leading"):
            raise UserError(f"offset is added to the steps of the spacing 'leading' alone, found {self.offset}.")
        if not 0 <= self.lowest < 1:
            raise UserError(f"lowest is a time in [0, 1), found {self.lowest}.")
        if self.shift <= 0:
            raise UserError(f"shift must be positive, found {self.shift}.")
        if twice := [name for name in self.through if self.through.count(name) > 1]:
            raise UserError(f"through names {twice[0]!r} twice; name each once.")

    def prepare(self, process: Process) -> tuple[Process, np.ndarray]:
        """The process to sample with, and its decreasing grid (`Process.grid`).

        Raises UserError for a sampler, spacing, shift or number of steps that does not suit the process.

        >>> from unified_jax.processes.interpolant import RectifiedFlow
        >>> process, grid = SamplingPlan(steps=4).prepare(RectifiedFlow())
        >>> grid.tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
        """
        name = type(self.sampler).__name__
        request = GridRequest(
            self.steps, self.spacing, self.shift, self.sampler.needs, name, self.offset, self.last, self.lowest,
            self.whole, self.begin,
        )  # fmt: skip
        process, grid = process.grid(request)
        check_falls(grid, request)
        return process, grid

    def with_steps(self, steps: int | None, guidance: float | None) -> "SamplingPlan":
        """The plan with every argument that is not None replaced."""
        plan = self if steps is None else replace(self, steps=steps)
        if guidance is not None and plan.guidance.axes:
            raise UserError("The plan guides along several axes, each with its own scale; leave out --guidance.")
        return plan if guidance is None else replace(plan, guidance=replace(plan.guidance, scale=guidance))

    def run(self, denoise: Any, process: Any, x: Any, grid: Any, keys: Any) -> Any:
        """Integrates x from the grid's first time to a sample. Raises UserError for a sampler that returns another."""
        made = self.sampler(denoise, process, x, grid, keys)
        found, wanted = (jax.tree.map(lambda a: getattr(a, "shape", None), one) for one in (made, x))
        if found != wanted:
            name = type(self.sampler).__name__
            raise UserError(f"The sampler {name} returns {found or made}; expected samples as its x, {wanted}.")
        return made


def __getattr__(name: str) -> Any:
    present = present_name(name, ())
    if present != name:
        return globals()[present]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
