"""Several streams denoised by one network, each at its own time: every marginal, conditional and joint distribution.

The behaviour is that of `Denoising`. A given stream is clean, an absent one pure noise; loss terms are NAME, NAME_vb,
... of each stream.
"""

import functools
from dataclasses import dataclass

from unified_jax.config import Open
from unified_jax.layers.form import Backbone
from unified_jax.models.checks import check_clocks
from unified_jax.models.denoising import Denoising
from unified_jax.models.diffusion import check_declared
from unified_jax.models.streams import Condition, ConditionSource, Stream, condition


@dataclass(frozen=True)
class JointDiffusion(Denoising):
    """A diffusion model of several modalities, each at its own time."""

    network: Open[Backbone]
    """A backbone of many streams."""
    streams: tuple[Stream, ...]
    """Everything that is denoised, in the network's order."""
    conditions: Open[tuple[Condition | Open[ConditionSource], ...]] = ()
    """Further conditions; a bare modality is a condition with its name."""
    drop_all: float = 0.1
    """Probability of dropping all conditions of a training example (classifier-free guidance)."""
    drop_some: float = 0.0
    """Probability of keeping only a random subset of a training example's conditions."""
    time_bins: int = 10
    """Number of time bins of the loss in the metrics."""

    def __post_init__(self) -> None:
        if not self.streams:
            raise ValueError("JointDiffusion needs at least one stream.")
        check_declared(self)
        check_clocks(self.streams)
        for stream in self.streams:
            if len(self.streams) > 1 and getattr(stream.process, "reversed_time", False):
                raise ValueError(
                    f"{stream.label}: the network reads a given stream at time 0, which is noise with reversed_time; "
                    "leave it off."
                )

    @functools.cached_property
    def reads(self) -> tuple[Condition, ...]:
        """The conditions."""
        return tuple(condition(one) for one in self.conditions)
