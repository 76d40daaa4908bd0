"""Any sampler, with its progress told to the host while a batch is computed.

Only the time of each evaluation leaves the program. XLA fuses around such a call, so samples may differ from those of
the sampler itself in the last bit; and JAX keeps no compiled program that calls back, so each process compiles it anew.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from unified_jax.config import Open
from unified_jax.processes.grids import Needs
from unified_jax.samplers.choice import Sampler
from unified_jax.samplers.loop import Denoiser
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.typing import Keys


@dataclass(frozen=True)
class Watched:
    """A sampler that reports where on its grid the denoiser is evaluated."""

    sampler: Open[Sampler]
    """The sampler."""
    report: Callable[[float], Any]
    """Called with the share of the grid that is done, 0 to 1; in order on one device."""

    @property
    def needs(self) -> Needs:
        """The sampler's."""
        return self.sampler.needs

    def __call__(self, denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
        """The sampler's result."""
        times = np.asarray(jax.tree.leaves(grid)[0], np.float32)

        def tell(t: Any, _: Any) -> None:
            self.report(float(np.interp(-np.float32(t), -times, np.linspace(0, 1, len(times)))))

        def seen(x: Any, t: Any) -> Any:
            # A number of x, so that the call waits for it.
            jax.debug.callback(tell, jax.tree.leaves(t)[0].max(), jax.tree.leaves(x)[0].ravel()[0])
            return denoise(x, t)

        return self.sampler(seen, process, x, grid, keys)


def watched(plan: SamplingPlan, report: Callable[[float], Any]) -> SamplingPlan:
    """The plan with its sampler watched."""
    return replace(plan, sampler=Watched(plan.sampler, report))
