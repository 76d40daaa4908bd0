"""Moved to `unified_jax.processes.grids`."""

from unified_jax.processes.grids import (  # noqa: F401
    beta_levels,
    discrete_grid,
    exponential_levels,
    karras_levels,
    spaced_steps,
    uniform_grid,
)
