"""unified_jax: diffusion and Transfusion models over any set of modalities, as pure functions."""

__version__ = "0.1.0"
