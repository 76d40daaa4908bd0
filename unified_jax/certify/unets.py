"""Families of U-Nets; diffusers' are among `diffusers_models`."""

from unified_jax.certify import adm

RUNNERS = adm.RUNNERS
"""Family -> how it is computed here, float32."""
