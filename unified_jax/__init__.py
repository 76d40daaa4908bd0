"""unified_jax: diffusion and Transfusion models over any set of modalities, as pure functions."""

from unified_jax import moved

__version__ = "0.1.0"

moved.install()
