"""Moved to `unified_jax.samplers.plan`."""

from unified_jax.samplers.plan import Plan, Spacing  # noqa: F401
